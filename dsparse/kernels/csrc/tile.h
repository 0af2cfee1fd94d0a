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
enum ScratchSlot { kPanels = 0, kSources, kTile, kOtherTile, kSums, kBiasSums, kUsed, kOtherUsed, kBias };

// Copies `count` values, converted to float.
template <class Element>
DSPARSE_INLINE void copy_floats(float* to, const Element* from, int64_t count) {
  constexpr int W = kWidth;
  int64_t i = 0;
  for (; i + W <= count; i += W) store<W>(to + i, load<W>(from + i));
  for (; i < count; ++i) to[i] = to_float(from[i]);
}

// The same for a block's side, which is mostly one of a few: then it is copied without a loop.
template <class Element>
DSPARSE_INLINE void copy_block_row(float* to, const Element* from, int64_t b) {
  if (b == 8) return copy_floats(to, from, 8);
  if (b == 16) return copy_floats(to, from, 16);
  copy_floats(to, from, b);
}

// Copies tokens [0, num_tokens) of a row-major matrix into a tile with room for `capacity` tokens, only the block
// columns listed in `used`. Tokens from num_tokens up to padded_tokens become zeros.
template <class Element>
void pack_tile(float* tile, int64_t capacity, const Element* from, int64_t row_length, int64_t num_tokens,
               int64_t padded_tokens, const int32_t* used, int64_t num_used, int64_t b) {
  for (int64_t t = 0; t < num_tokens; ++t) {
    const Element* row = from + t * row_length;
    for (int64_t u = 0; u < num_used; ++u) {
      const int64_t c = used[u];
      copy_block_row(tile + (c * capacity + t) * b, row + c * b, b);
    }
  }
  for (int64_t u = 0; u < num_used && num_tokens < padded_tokens; ++u)
    memset(tile + (int64_t(used[u]) * capacity + num_tokens) * b, 0,
           sizeof(float) * size_t((padded_tokens - num_tokens) * b));
}

// Tokens per tile: a multiple of 24, and so of every microkernel's, that lets their floats fit in about half of L2.
inline int64_t tile_tokens(int64_t num_floats_per_token) {
  constexpr int64_t kFloats = 64 * 1024;
  const int64_t fitting = kFloats / larger<int64_t>(num_floats_per_token, 1) / 24 * 24;
  return larger<int64_t>(24, smaller<int64_t>(192, fitting));
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
