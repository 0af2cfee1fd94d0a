// Forward and input gradient: both are "outputs of a line = sum over the line's blocks of inputs times block".
//
// Forward: lines are block rows, y = x Wᵀ. Input gradient: lines are block columns, dx = dy W. What differs is how a
// block is laid out for it, and that only the forward adds a bias and takes a GELU.
//
// Tiling, outermost first:
//   threads   each takes one stretch of tokens
//   tiles     of tokens, as many as let the tile's inputs fit in half of L2 (tile.h)
//   lines     their weights are read once per tile
//   panels    NV vectors of outputs of a line; its weights lie in the order they are read, inputs outermost
//   MR tokens whose MR x NV sums stay in registers while all blocks of the line are walked. Per input and token one
//             value is broadcast and multiplied by NV vectors of weights.
// MR x NV is at least 12: a fused multiply-add takes four cycles and two start in each.
//
// Every sum runs over the line's blocks in order and the inputs in order, from the first to the last, and always in the
// same instructions, so results depend neither on the tiles nor on the number of threads.
#pragma once

#include "abi.h"
#include "gelu.h"
#include "simd.h"
#include "tile.h"

namespace dsparse {
namespace DSPARSE_ISA {
namespace blocks {

// What a product reads and writes, forward and input gradient alike.
template <class Element>
struct Product {
  const Element* inputs;    // [T, num_inputs]
  const Element* values;    // [S, b, b]
  const Element* bias;      // [num_outputs] or null
  Element* outputs;         // [T, num_outputs]
  Element* before_gelu;     // [T, num_outputs], or null for no GELU
  const int32_t* offsets;   // [lines + 1]
  const int32_t* slots;     // [S] by line
  const int32_t* sources;   // [S], the block of inputs that a slot's block takes
  const int32_t* source_offsets;  // [sources + 1], only to see which are empty
  int64_t num_tokens, num_inputs, num_outputs, num_slots;
  int block;
  int num_threads;
  bool transposed;  // values are [output, input], as in the forward, and not [input, output]
};

// Writes a panel's sums of up to MR tokens: bias, GELU, rounding to Element.
template <int W, int NV, class Element>
struct Writer {
  const Element* bias;
  Element* outputs;
  Element* before_gelu;
  int64_t row_length;
  int64_t num_columns;  // of the panel, NV * W unless the block ends within it

  DSPARSE_INLINE F32<W> bias_at(int v) const {
    if (bias == nullptr) return zero<W>();
    const int64_t left = num_columns - v * W;
    return left >= W ? load<W>(bias + v * W) : left > 0 ? load_first<W>(bias + v * W, left) : zero<W>();
  }

  DSPARSE_INLINE static void put(Element* to, F32<W> v, int64_t left) {
    if (left >= W)
      store<W>(to, v);
    else if (left > 0)
      store_first<W>(to, v, left);
  }

  template <int MR>
  DSPARSE_INLINE void write(F32<W> (&sums)[MR][NV], int64_t first_token, int64_t num_tokens) const {
    if (num_columns == NV * W && num_tokens == MR && before_gelu == nullptr) {
      Element* to = outputs + first_token * row_length;
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) {
        const F32<W> bias_v = bias_at(v);
#pragma GCC unroll 32
        for (int i = 0; i < MR; ++i) store<W>(to + i * row_length + v * W, sums[i][v] + bias_v);
      }
      return;
    }
    alignas(64) float kept[MR][NV * W];
#pragma GCC unroll 32
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) store<W>(&kept[i][v * W], sums[i][v]);
    write_slowly(&kept[0][0], first_token, num_tokens);
  }

  __attribute__((noinline)) void write_slowly(const float* kept, int64_t first_token, int64_t num_tokens) const {
    for (int v = 0; v < NV; ++v) {
      const int64_t left = num_columns - v * W;
      const F32<W> bias_v = bias_at(v);
      for (int64_t i = 0; i < num_tokens; ++i) {
        const int64_t at = (first_token + i) * row_length + v * W;
        const F32<W> sum = load<W>(kept + i * NV * W + v * W) + bias_v;
        if (before_gelu != nullptr) put(before_gelu + at, sum, left);
        put(outputs + at, before_gelu != nullptr ? gelu<W>(sum) : sum, left);
      }
    }
  }
};

// The sums of MR tokens and one panel over all blocks of a line. `inputs` is the tile at the first of the tokens.
template <int W, int NV, int MR, int B, class Element>
inline void multiply_panel(const float* inputs, int64_t source_stride, const int32_t* sources, int64_t num_blocks,
                           const float* panel, int runtime_block, const Writer<W, NV, Element>& writer,
                           int64_t first_token, int64_t num_tokens) {
  const int64_t b = B > 0 ? B : runtime_block;
  F32<W> sums[MR][NV];
#pragma GCC unroll 32
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) sums[i][v] = zero<W>();
  for (int64_t e = 0; e < num_blocks; ++e) {
    const float* x = inputs + sources[e] * source_stride;
#pragma GCC unroll 8
    for (int64_t k = 0; k < b; ++k) {
      F32<W> weights[NV];
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) weights[v] = load<W>(panel + v * W);
      panel += NV * W;
#pragma GCC unroll 32
      for (int i = 0; i < MR; ++i) {
        const F32<W> input = broadcast<W>(x[i * b + k]);
#pragma GCC unroll 2
        for (int v = 0; v < NV; ++v) sums[i][v] = fma(input, weights[v], sums[i][v]);
      }
    }
  }
  writer.write(sums, first_token, num_tokens);
}

// Lays the weights of a line out as panels [panel][block][input][NV * W], zeros beyond the block's side.
template <int W, int NV, class Element>
inline void pack_line(float* to, const Product<Element>& product, int64_t line) {
  constexpr int kPanel = NV * W;
  const int64_t b = product.block, num_panels = ceil_div(b, kPanel);
  const int64_t begin = product.offsets[line], end = product.offsets[line + 1];
  for (int64_t p = 0; p < num_panels; ++p) {
    const int64_t first = p * kPanel, valid = smaller<int64_t>(kPanel, b - first);
    for (int64_t e = begin; e < end; ++e, to += b * kPanel) {
      const Element* block = product.values + product.slots[e] * b * b;
      if (!product.transposed) {
        for (int64_t k = 0; k < b; ++k) {
          copy_floats(to + k * kPanel, block + k * b + first, valid);
          for (int64_t j = valid; j < kPanel; ++j) to[k * kPanel + j] = 0.f;
        }
      } else if (b % W == 0 && valid == kPanel) {
        for (int64_t k = 0; k < b; k += W)
          for (int v = 0; v < NV; ++v) {
            F32<W> rows[W];
#pragma GCC unroll 16
            for (int j = 0; j < W; ++j) rows[j] = load<W>(block + (first + v * W + j) * b + k);
            transpose<W>(rows);
#pragma GCC unroll 16
            for (int j = 0; j < W; ++j) store<W>(to + (k + j) * kPanel + v * W, rows[j]);
          }
      } else {
        for (int64_t k = 0; k < b; ++k)
          for (int64_t j = 0; j < kPanel; ++j)
            to[k * kPanel + j] = j < valid ? to_float(block[(first + j) * b + k]) : 0.f;
      }
    }
  }
}

// Tokens per tile: a multiple of MR that lets the inputs fit in about half of L2, between 24 and 192.
template <int MR>
DSPARSE_INLINE int64_t tile_tokens(int64_t num_floats_per_token, int64_t num_tokens) {
  constexpr int64_t kFloats = 64 * 1024;
  const int64_t fitting = kFloats / larger<int64_t>(num_floats_per_token, 1) / 24 * 24;
  return smaller<int64_t>(larger<int64_t>(24, smaller<int64_t>(192, fitting)), round_up(num_tokens, MR));
}

// One thread's tokens [begin, end).
template <int W, int NV, int MR, int B, class Element>
inline Status multiply_tokens(const Product<Element>& product, const float* panels, const int32_t* entry_sources,
                              int64_t begin, int64_t end) {
  constexpr int kPanel = NV * W;
  const int64_t b = product.block, num_panels = ceil_div(b, kPanel);
  const int64_t num_lines = product.num_outputs / b, num_sources = product.num_inputs / b;
  int32_t* used = reinterpret_cast<int32_t*>(scratch<kUsed>(num_sources));
  if (used == nullptr) return kOutOfMemory;
  const int64_t num_used = list_used(used, product.source_offsets, num_sources);
  const int64_t capacity = tile_tokens<MR>(num_used * b, end - begin);
  float* tile = scratch<kTile>(capacity * product.num_inputs);
  if (tile == nullptr) return kOutOfMemory;

  for (int64_t t0 = begin; t0 < end; t0 += capacity) {
    const int64_t num_tokens = smaller(capacity, end - t0);
    pack_tile<B>(tile, capacity, product.inputs + t0 * product.num_inputs, product.num_inputs, num_tokens,
                 round_up(num_tokens, MR), used, num_used, product.block);
    for (int64_t line = 0; line < num_lines; ++line) {
      const int64_t first_entry = product.offsets[line], num_blocks = product.offsets[line + 1] - first_entry;
      for (int64_t p = 0; p < num_panels; ++p) {
        const int64_t column = line * b + p * kPanel, at = t0 * product.num_outputs + column;
        const Writer<W, NV, Element> writer = {product.bias == nullptr ? nullptr : product.bias + column,
                                               product.outputs + at,
                                               product.before_gelu == nullptr ? nullptr : product.before_gelu + at,
                                               product.num_outputs, smaller<int64_t>(kPanel, b - p * kPanel)};
        const float* panel = panels + (first_entry * num_panels + p * num_blocks) * b * kPanel;
        for (int64_t m = 0; m < num_tokens; m += MR)
          multiply_panel<W, NV, MR, B>(tile + m * b, capacity * b, entry_sources + first_entry, num_blocks, panel,
                                       product.block, writer, m, smaller<int64_t>(MR, num_tokens - m));
      }
    }
  }
  return kOk;
}

template <int W, int NV, int MR, int B, class Element>
inline Status multiply(const Product<Element>& product) {
  constexpr int kPanel = NV * W;
  const int64_t b = product.block, num_lines = product.num_outputs / b;
  const int64_t panel_floats = ceil_div(b, kPanel) * b * kPanel;  // of one block
  float* panels = scratch<kPanels>(product.num_slots * panel_floats);
  int32_t* entry_sources = reinterpret_cast<int32_t*>(scratch<kSources>(product.num_slots));
  if (panels == nullptr || entry_sources == nullptr) return kOutOfMemory;

  const int64_t num_groups = ceil_div(product.num_tokens, MR);
  const int num_threads = int(larger<int64_t>(1, smaller<int64_t>(product.num_threads, num_groups)));
  int32_t status = kOk;
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
  {
#pragma omp for schedule(static)
    for (int64_t line = 0; line < num_lines; ++line) {
      const int64_t entry = product.offsets[line];
      pack_line<W, NV>(panels + entry * panel_floats, product, line);
      for (int64_t e = entry; e < product.offsets[line + 1]; ++e) entry_sources[e] = product.sources[product.slots[e]];
    }
    // The barrier at the end of the loop above stands between packing and reading.
#pragma omp for schedule(static, 1)
    for (int part = 0; part < num_threads; ++part) {
      const int64_t begin = num_groups * part / num_threads * MR;
      const int64_t end = smaller(num_groups * (part + 1) / num_threads * MR, product.num_tokens);
      if (multiply_tokens<W, NV, MR, B>(product, panels, entry_sources, begin, end) != kOk) {
#pragma omp atomic write
        status = kOutOfMemory;
      }
    }
  }
  return Status(status);
}

// Picks vectors and tokens in registers for a block side: as many sums as registers hold beside weights and an input.
template <int B, class Element>
inline Status multiply_blocks(const Product<Element>& product) {
  constexpr bool kMany = kRegisters >= 32;
  if constexpr (B > 0 && B % (2 * kWidth) == 0) return multiply<kWidth, 2, kMany ? 12 : 6, B>(product);
  else if constexpr (B > 0 && B % kWidth == 0) return multiply<kWidth, 1, kMany ? 24 : 12, B>(product);
  else return multiply<(kWidth > 8 ? 8 : kWidth), 1, kMany ? 24 : 12, B>(product);
}

template <class Element>
inline Status run_product(const Product<Element>& product) {
  switch (product.block) {
    case 8: return multiply_blocks<8>(product);
    case 16: return multiply_blocks<16>(product);
    case 32: return multiply_blocks<32>(product);
    case 64: return multiply_blocks<64>(product);
    case 128: return multiply_blocks<128>(product);
    default: return multiply_blocks<0>(product);
  }
}

}  // namespace blocks
}  // namespace DSPARSE_ISA
}  // namespace dsparse
