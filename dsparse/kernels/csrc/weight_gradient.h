// Weight gradient at the active blocks: dW[slot] = sum over tokens of dyᵀ x, and the bias gradient, dy over tokens.
//
// The work is a list of units, a unit being one panel (NV vectors of in features) of one block. Units are listed along
// the longer side of the matrix, and each thread takes one stretch of the list and no other thread's: it copies, tile
// of tokens by tile, the block columns of x and dy that its units need (tile.h), of the longer side only its part, and
// adds every unit's products for these tokens to the sums that lie in the result. MR x NV of them at a time stay in
// registers while the tile's tokens are walked; per token and out feature one dy is broadcast.
//
// Each sum is over tokens in order, from the first to the last, by one thread, so the result depends neither on the
// tiles nor on the number of threads.
#pragma once

#include "abi.h"
#include "simd.h"
#include "tile.h"

namespace dsparse {
namespace DSPARSE_ISA {
namespace blocks {

// MR out features by NV vectors of in features of one block, over a tile's tokens.
template <int W, int NV, int MR>
inline void add_outer_products(float* sums, const float* dy, const float* x, int64_t b, int64_t num_columns,
                               int64_t num_tokens) {
  const bool whole = num_columns == NV * W;
  F32<W> acc[MR][NV];
#pragma GCC unroll 32
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v)
      acc[i][v] = whole ? load<W>(sums + i * b + v * W) : load_first<W>(sums + i * b, num_columns);
  for (int64_t t = 0; t < num_tokens; ++t, dy += b, x += b) {
    F32<W> inputs[NV];
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) inputs[v] = load<W>(x + v * W);
#pragma GCC unroll 32
    for (int i = 0; i < MR; ++i) {
      const F32<W> gradient = broadcast<W>(dy[i]);
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) acc[i][v] = fma(gradient, inputs[v], acc[i][v]);
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) {
      if (whole)
        store<W>(sums + i * b + v * W, acc[i][v]);
      else
        store_first<W>(sums + i * b, acc[i][v], num_columns);
    }
}

// `count` out features, 1 to MR.
template <int W, int NV, int MR>
inline void add_group(int64_t count, float* sums, const float* dy, const float* x, int64_t b, int64_t num_columns,
                      int64_t num_tokens) {
  if (count == MR) return add_outer_products<W, NV, MR>(sums, dy, x, b, num_columns, num_tokens);
  if constexpr (MR > 1) add_group<W, NV, MR - 1>(count, sums, dy, x, b, num_columns, num_tokens);
}

// The units of one thread: [begin, end) of (entry, panel), entries along rows or along columns.
struct UnitRange {
  int64_t begin, end;
};

// Which lines the blocks of a stretch of entries lie in, as a list; returns its length.
inline int64_t list_lines(int32_t* used, int64_t num_lines, const int32_t* line_of_slot, const int32_t* slots,
                          int64_t begin, int64_t end) {
  memset(used, 0, sizeof(int32_t) * size_t(num_lines));
  for (int64_t e = begin; e < end; ++e) used[line_of_slot[slots[e]]] = 1;
  int64_t count = 0;
  for (int64_t line = 0; line < num_lines; ++line)
    if (used[line] != 0) used[count++] = int32_t(line);
  return count;
}

// Adds columns [begin, end) of dy's tokens to their sums, a few vectors of columns at a time.
template <class Element>
inline void add_columns(float* sums, const Element* dy, int64_t row_length, int64_t num_tokens, int64_t begin,
                        int64_t end) {
  constexpr int W = kWidth, kVectors = 8;
  int64_t o = begin;
  for (; o + kVectors * W <= end; o += kVectors * W) {
    F32<W> acc[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) acc[v] = load<W>(sums + o + v * W);
    for (int64_t t = 0; t < num_tokens; ++t)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) acc[v] += load<W>(dy + t * row_length + o + v * W);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) store<W>(sums + o + v * W, acc[v]);
  }
  for (int64_t t = 0; t < num_tokens; ++t)
    for (int64_t i = o; i < end; ++i) sums[i] += to_float(dy[t * row_length + i]);
}

// The weight gradient's own view of a call.
template <class Element>
struct WeightGradient {
  const Call& call;
  const int32_t* slots;  // along the longer side
  float* sums;           // [S, b, b]
  float* bias_sums;      // [O] or null
};

// One thread's share: `part` of `num_parts`.
template <int W, int NV, int MR, class Element>
inline Status gradient_of_part(const WeightGradient<Element>& job, int part, int num_parts) {
  const Call& call = job.call;
  constexpr int kPanel = NV * W;
  const int64_t b = call.block, num_panels = ceil_div(b, kPanel), num_units = call.num_slots * num_panels;
  const UnitRange units = {num_units * part / num_parts, num_units * (part + 1) / num_parts};
  const int64_t first_entry = units.begin / num_panels, last_entry = ceil_div(units.end, num_panels);
  const int64_t num_rows = call.num_out / b, num_cols = call.num_in / b;
  const int64_t o_begin = call.num_out * part / num_parts, o_end = call.num_out * (part + 1) / num_parts;

  int32_t* used_rows = reinterpret_cast<int32_t*>(scratch<kUsed>(num_rows));
  int32_t* used_cols = reinterpret_cast<int32_t*>(scratch<kOtherUsed>(num_cols));
  if (used_rows == nullptr || used_cols == nullptr) return kOutOfMemory;
  const int64_t num_used_rows = list_lines(used_rows, num_rows, call.rows, job.slots, first_entry, last_entry);
  const int64_t num_used_cols = list_lines(used_cols, num_cols, call.cols, job.slots, first_entry, last_entry);
  const int64_t capacity = smaller(tile_tokens((num_used_rows + num_used_cols) * b), call.num_tokens);
  float* dy_tile = scratch<kTile>(capacity * call.num_out);
  float* x_tile = scratch<kOtherTile>(capacity * call.num_in);
  if (dy_tile == nullptr || x_tile == nullptr) return kOutOfMemory;

  const int64_t num_groups = ceil_div(b, MR);
  for (int64_t t0 = 0; t0 < call.num_tokens; t0 += capacity) {
    const int64_t num_tokens = smaller(capacity, call.num_tokens - t0);
    const Element* dy = static_cast<const Element*>(call.dy) + t0 * call.num_out;
    const Element* x = static_cast<const Element*>(call.x) + t0 * call.num_in;
    if (job.bias_sums != nullptr) add_columns(job.bias_sums, dy, call.num_out, num_tokens, o_begin, o_end);
    pack_tile(dy_tile, capacity, dy, call.num_out, num_tokens, 0, used_rows, num_used_rows, b);
    pack_tile(x_tile, capacity, x, call.num_in, num_tokens, 0, used_cols, num_used_cols, b);
    for (int64_t unit = units.begin; unit < units.end; ++unit) {
      const int64_t slot = job.slots[unit / num_panels], column = unit % num_panels * kPanel;
      const float* dy_block = dy_tile + call.rows[slot] * capacity * b;
      const float* x_block = x_tile + call.cols[slot] * capacity * b + column;
      float* sums = job.sums + slot * b * b + column;
      for (int64_t g = 0; g < num_groups; ++g) {
        const int64_t i = b * g / num_groups, count = b * (g + 1) / num_groups - i;
        add_group<W, NV, MR>(count, sums + i * b, dy_block + i, x_block, b, smaller<int64_t>(kPanel, b - column),
                             num_tokens);
      }
    }
  }
  return kOk;
}

template <int W, int NV, int MR, class Element>
inline Status weight_gradient_in(const Call& call) {
  constexpr bool kInPlace = sizeof(Element) == sizeof(float);
  const int64_t num_values = call.num_slots * call.block * call.block;
  const bool with_bias = call.dbias != nullptr;
  WeightGradient<Element> job = {call, call.num_out >= call.num_in ? call.row_slots : call.col_slots, nullptr, nullptr};
  job.sums = kInPlace ? static_cast<float*>(call.dvalues) : scratch<kSums>(num_values);
  if (with_bias) job.bias_sums = kInPlace ? static_cast<float*>(call.dbias) : scratch<kBiasSums>(call.num_out);
  if (job.sums == nullptr && num_values > 0) return kOutOfMemory;
  if (with_bias && job.bias_sums == nullptr && call.num_out > 0) return kOutOfMemory;

  const int num_threads = int(larger<int64_t>(1, call.num_threads));
  int32_t status = kOk;
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
  {
#pragma omp for schedule(static)
    for (int64_t slot = 0; slot < call.num_slots; ++slot)
      memset(job.sums + slot * call.block * call.block, 0, sizeof(float) * size_t(call.block) * size_t(call.block));
#pragma omp single
    if (with_bias) memset(job.bias_sums, 0, sizeof(float) * size_t(call.num_out));
#pragma omp for schedule(static, 1)
    for (int part = 0; part < num_threads; ++part)
      if (gradient_of_part<W, NV, MR, Element>(job, part, num_threads) != kOk) {
#pragma omp atomic write
        status = kOutOfMemory;
      }
    if constexpr (!kInPlace) {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < num_values; ++i) from_float(static_cast<Element*>(call.dvalues) + i, job.sums[i]);
#pragma omp single
      if (with_bias)
        for (int64_t o = 0; o < call.num_out; ++o)
          from_float(static_cast<Element*>(call.dbias) + o, job.bias_sums[o]);
    }
  }
  return Status(status);
}

template <class Element>
inline Status run_weight_gradient(const Call& call) {
  constexpr bool kMany = kRegisters >= 32;
  if (call.block % (2 * kWidth) == 0) return weight_gradient_in<kWidth, 2, kMany ? 12 : 6, Element>(call);
  if (call.block % kWidth == 0) return weight_gradient_in<kWidth, 1, kMany ? 24 : 12, Element>(call);
  return weight_gradient_in<(kWidth > 8 ? 8 : kWidth), 1, kMany ? 24 : 12, Element>(call);
}

}  // namespace blocks
}  // namespace DSPARSE_ISA
}  // namespace dsparse
