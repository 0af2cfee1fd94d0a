// Tiles of tokens, copied to scratch block column by block column.
//
// A tile holds [C, tokens, b]: the b values of one token in one block column are followed by those of the next token.
// So a kernel reads a block's inputs as one contiguous stretch, whatever the width of the matrix. Read in place, rows
// that are a power of two apart would fall on the same few sets of the L1 cache and push each other out. bfloat16
// becomes float on the way.
#pragma once

#include "abi.h"
#include "simd.h"

namespace dsparse {
namespace DSPARSE_ISA {
namespace blocks {

// Which buffer of a thread holds what; from 16 on they are the ones of tokens.h.
enum ScratchSlot { kPanels = 0, kSources, kTile, kOtherTile, kSums, kBiasSums, kUsed, kBias, kEmpty, kRuns };

// Copies `count` values, converted to float.
template <class Element>
DSPARSE_INLINE void copy_floats(float* to, const Element* from, int64_t count) {
  constexpr int W = kWidth;
  int64_t i = 0;
  for (; i + W <= count; i += W) store<W>(to + i, load<W>(from + i));
  for (; i < count; ++i) to[i] = to_float(from[i]);
}

// Copies tokens [0, num_tokens) of block columns into a tile; B is the block side, 0 for any. Four tokens at a time:
// their values lie side by side in the tile, and four rows are as many streams as the hardware fetches ahead with ease.
template <int B, class Element>
DSPARSE_INLINE void copy_columns(float* tile, int64_t capacity, const Element* from, int64_t row_length,
                                 int64_t num_tokens, const int32_t* used, int64_t num_used, int64_t runtime_block) {
  const int64_t b = B > 0 ? B : runtime_block, column_floats = capacity * b;
  int64_t t = 0;
  for (; t + 4 <= num_tokens; t += 4, from += 4 * row_length)
    for (int64_t u = 0; u < num_used; ++u) {
      const Element* source = from + used[u] * b;
      float* to = tile + used[u] * column_floats + t * b;
      for (int i = 0; i < 4; ++i) copy_floats(to + i * b, source + i * row_length, b);
    }
  for (; t < num_tokens; ++t, from += row_length)
    for (int64_t u = 0; u < num_used; ++u)
      copy_floats(tile + used[u] * column_floats + t * b, from + used[u] * b, b);
}

// Copies tokens [0, num_tokens) of a row-major matrix into a tile with room for `capacity` tokens, only the block
// columns listed in `used`. Tokens from num_tokens up to padded_tokens become zeros.
template <class Element>
void pack_tile(float* tile, int64_t capacity, const Element* from, int64_t row_length, int64_t num_tokens,
               int64_t padded_tokens, const int32_t* used, int64_t num_used, int64_t b) {
  if (b == 8)
    copy_columns<8>(tile, capacity, from, row_length, num_tokens, used, num_used, b);
  else if (b == 16)
    copy_columns<16>(tile, capacity, from, row_length, num_tokens, used, num_used, b);
  else
    copy_columns<0>(tile, capacity, from, row_length, num_tokens, used, num_used, b);
  for (int64_t u = 0; u < num_used && num_tokens < padded_tokens; ++u)
    memset(tile + (used[u] * capacity + num_tokens) * b, 0, sizeof(float) * size_t((padded_tokens - num_tokens) * b));
}

// Like pack_tile, with groups of `group` tokens interleaved: [C, groups, b, group]. Tokens beyond the last are zeros up
// to a whole group. `group` is a multiple of four.
template <class Element>
void pack_interleaved(float* tile, int64_t capacity, const Element* from, int64_t row_length, int64_t num_tokens,
                      int64_t group, const int32_t* used, int64_t num_used, int64_t b) {
  constexpr int W = kWidth < 8 ? 4 : 8;
  for (int64_t t = 0; t < round_up(num_tokens, group);) {
    const int64_t within = t % group, left = num_tokens - t;
    const Element* rows = from + t * row_length;
    const int64_t step = W == 8 && group % 8 == 0 ? 8 : 4;
    for (int64_t u = 0; u < num_used; ++u) {
      const Element* source = rows + used[u] * b;
      float* to = tile + (used[u] * capacity + t - within) * b + within;
      int64_t k = 0;
      if (left >= step)
        for (; step == W && k + W <= b; k += W) {
          F32<W> square[W];
#pragma GCC unroll 8
          for (int i = 0; i < W; ++i) square[i] = load<W>(source + i * row_length + k);
          transpose<W>(square);
#pragma GCC unroll 8
          for (int i = 0; i < W; ++i) store<W>(to + (k + i) * group, square[i]);
        }
      for (; k < b; ++k)
        for (int64_t i = 0; i < step; ++i) to[k * group + i] = i < left ? to_float(source[i * row_length + k]) : 0.f;
    }
    t += step;
  }
}

// Asks for `count` values of each of the rows [begin, end) to be fetched into L2 while the caller computes.
template <class Element>
DSPARSE_INLINE void prefetch_rows(const Element* from, int64_t row_length, int64_t begin, int64_t end, int64_t count) {
  constexpr int64_t kLine = 64 / sizeof(Element);
  for (int64_t row = begin; row < end; ++row)
    for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(from + row * row_length + i, 0, 2);
}

// Tokens per tile: a multiple of the microkernel's that lets their floats fit in about half of L2.
inline int64_t tile_tokens(int64_t num_floats_per_token, int64_t multiple) {
  constexpr int64_t kFloats = 64 * 1024, kMost = 192;
  const int64_t fitting = smaller(kMost, kFloats / larger<int64_t>(num_floats_per_token, 1));
  return larger(multiple, fitting / multiple * multiple);
}

// The lines (block rows or columns) that hold any block, ascending; returns how many.
inline int64_t list_used(int32_t* used, const int32_t* offsets, int64_t num_lines) {
  int64_t count = 0;
  for (int64_t line = 0; line < num_lines; ++line)
    if (offsets[line + 1] > offsets[line]) used[count++] = int32_t(line);
  return count;
}

}  // namespace blocks
}  // namespace DSPARSE_ISA
}  // namespace dsparse
