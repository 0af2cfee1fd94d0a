// The C interface between Python (ctypes) and the kernels: one struct for all three products.
//
// Shape legend: T tokens, O out features, I in features, S slots, b block side, R = O / b block rows, C = I / b block
// columns. All matrices are row-major and contiguous; `Element` is float or bfloat16, by `dtype`.
#pragma once

#include <cstdint>

namespace dsparse {

enum Dtype : int32_t { kFloat32 = 0, kBfloat16 = 1 };

enum Status : int32_t {
  kOk = 0,
  kOutOfMemory = 1,
  kBadIndex = 2,   // a slot, row or column out of range, or offsets that do not ascend from 0 to S
  kBadIsa = 3,     // an instruction set that the library or the machine lacks
  kUnsupported = 4 // a dtype or block that no kernel takes
};

struct Call {
  // What is not part of a product is null.
  const void* x;       // Element [T, I]
  const void* dy;      // Element [T, O]
  const void* values;  // Element [S, b, b]
  const void* bias;    // Element [O]
  void* y;             // Element [T, O]; with `pre`, GELU of it
  void* pre;           // Element [T, O], what the GELU is taken of; null for none
  void* dx;            // Element [T, I]
  void* dvalues;       // Element [S, b, b]
  void* dbias;         // Element [O]
  // dsparse.kernels.index.BlockIndex.
  const int32_t* rows;         // [S]
  const int32_t* cols;         // [S]
  const int32_t* row_offsets;  // [R + 1]
  const int32_t* row_slots;    // [S]
  const int32_t* col_offsets;  // [C + 1]
  const int32_t* col_slots;    // [S]
  int64_t num_tokens;          // T
  int64_t num_out;             // O
  int64_t num_in;              // I
  int64_t num_slots;           // S
  int32_t block;               // b
  int32_t dtype;
  int32_t num_threads;
  int32_t isa;  // a position in kIsas of dispatch.cpp
};

// Blocks too small for a vector of outputs go to tokens.h, which in each instruction set's namespace defines
//   template <class Element> Status tokens_forward(const Call&);         // y (and pre) from x, values, bias
//   template <class Element> Status tokens_input_gradient(const Call&);  // dx from dy, values
//   template <class Element> Status tokens_weight_gradient(const Call&); // dvalues (and dbias) from dy, x
// for any block >= 1 and T >= 0, with Element float or Bf16 of simd.h. The index has been checked before.
// scratch<Slot>() of simd.h: Slots from 16 on are theirs. GELU of a vector: gelu.h.
constexpr int32_t kLargestTokensBlock = 4;

// Of a block's side: what fits the kernels' lists of the lanes of a block (kMostLanes of weight_gradient.h).
constexpr int32_t kLargestBlock = 256;

}  // namespace dsparse
