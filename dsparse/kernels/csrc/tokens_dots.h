// Dot products of packed rows, several at a time: the arithmetic of the weight gradient.
#pragma once

#include "simd.h"

namespace dsparse {
namespace DSPARSE_ISA {
namespace tokens {

// From each of two vectors the lower or upper halves of every stretch of 2 · Step values.
template <int W, int Step, int Upper>
struct Halves {
  static constexpr int at(int j) {
    return ((j & Step) == 0 ? j : j - Step + W) + (Upper == 0 ? 0 : Step);
  }
};
// Within each lane of four: the even or odd values of a, then those of b.
template <int W, int Odd>
struct EveryOther {
  static constexpr int at(int j) { return (j & ~3) + 2 * (j & 1) + Odd + ((j & 2) == 0 ? 0 : W); }
};

// Value i of the result is the sum of all values of rows[i]: a transpose that adds as it goes.
template <int W>
DSPARSE_INLINE F32<W> sums_of(F32<W> (&rows)[W]) {
  if constexpr (W >= 16)
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
      rows[i] = shuffle<W, Halves<W, 8, 0>>(rows[i], rows[i + 8]) + shuffle<W, Halves<W, 8, 1>>(rows[i], rows[i + 8]);
  if constexpr (W >= 8)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
      rows[i] = shuffle<W, Halves<W, 4, 0>>(rows[i], rows[i + 4]) + shuffle<W, Halves<W, 4, 1>>(rows[i], rows[i + 4]);
  const F32<W> a = shuffle<W, Halves<W, 2, 0>>(rows[0], rows[1]) + shuffle<W, Halves<W, 2, 1>>(rows[0], rows[1]);
  const F32<W> b = shuffle<W, Halves<W, 2, 0>>(rows[2], rows[3]) + shuffle<W, Halves<W, 2, 1>>(rows[2], rows[3]);
  return shuffle<W, EveryOther<W, 0>>(a, b) + shuffle<W, EveryOther<W, 1>>(a, b);
}

// Adds COUNT sums of rows to what stands at `to`; up to W values of it are written, those beyond COUNT unchanged.
template <int W, int COUNT>
DSPARSE_INLINE void add_sums(const F32<W> (&rows)[COUNT], float* to) {
#pragma GCC unroll 16
  for (int begin = 0; begin < COUNT; begin += W) {
    F32<W> part[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) part[i] = begin + i < COUNT ? rows[begin + i] : zero<W>();
    store<W>(to + begin, load<W>(to + begin) + sums_of<W>(part));
  }
}

// Dot products of one row with up to this many others at a time: as many as lanes, so that their sums fill a vector.
constexpr int kMostDots = kWidth == 16 ? 16 : 8;

// The dot products of M entries of one span, 1×1 each: its row is loaded once for all.
template <int W, int NV, int M>
DSPARSE_INLINE void add_dots(const float* row, const float* packed, const int32_t* offsets, float* to) {
  F32<W> total[M];
  const float* other[M];
#pragma GCC unroll 16
  for (int k = 0; k < M; ++k) {
    total[k] = zero<W>();
    other[k] = packed + offsets[k];
  }
#pragma GCC unroll 16
  for (int v = 0; v < NV; ++v) {
    const F32<W> values = load<W>(row + v * W);
#pragma GCC unroll 16
    for (int k = 0; k < M; ++k) total[k] = fma(values, load<W>(other[k] + v * W), total[k]);
  }
  add_sums<W, M>(total, to);
}

template <int W, int NV>
DSPARSE_INLINE void add_span_dots(
    const float* row, const float* packed, const int32_t* offsets, int64_t count, float* to) {
  while (count > 0) {
    // The last two groups alike: a row is loaded for a few dots as often as for many.
    const int64_t now = count >= 2 * kMostDots ? kMostDots : count > kMostDots ? (count + 1) / 2 : count;
    switch (now) {
#define DSPARSE_DOTS(m) \
  case m: add_dots<W, NV, (m <= kMostDots ? m : 1)>(row, packed, offsets, to); break;
      DSPARSE_DOTS(1)
      DSPARSE_DOTS(2)
      DSPARSE_DOTS(3)
      DSPARSE_DOTS(4)
      DSPARSE_DOTS(5)
      DSPARSE_DOTS(6)
      DSPARSE_DOTS(7)
      DSPARSE_DOTS(8)
      DSPARSE_DOTS(9)
      DSPARSE_DOTS(10)
      DSPARSE_DOTS(11)
      DSPARSE_DOTS(12)
      DSPARSE_DOTS(13)
      DSPARSE_DOTS(14)
      DSPARSE_DOTS(15)
      DSPARSE_DOTS(16)
#undef DSPARSE_DOTS
    }
    offsets += now;
    to += now;
    count -= now;
  }
}

// I×J weights of a block, beginning at (i, j): stored one after another, by rows.
template <int W, int NV, int I, int J>
DSPARSE_INLINE void add_piece(const float* dy, const float* x, float* to) {
  constexpr int NT = NV * W;
  F32<W> total[I * J];
#pragma GCC unroll 16
  for (int k = 0; k < I * J; ++k) total[k] = zero<W>();
  for (int v = 0; v < NV; ++v) {
    F32<W> rows[I];
#pragma GCC unroll 8
    for (int i = 0; i < I; ++i) rows[i] = load<W>(dy + i * NT + v * W);
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) {
      const F32<W> column = load<W>(x + j * NT + v * W);
#pragma GCC unroll 8
      for (int i = 0; i < I; ++i) total[i * J + j] = fma(rows[i], column, total[i * J + j]);
    }
  }
  add_sums<W, I * J>(total, to);
}

// A block is cut into pieces of at most 4×2; each piece's weights lie together. Calls piece(i, j, height, width).
constexpr int kPieceRows = 4, kPieceCols = 2;

template <class Piece>
DSPARSE_INLINE void each_piece(int64_t block, Piece piece) {
  for (int64_t i = 0; i < block; i += kPieceRows)
    for (int64_t j = 0; j < block; j += kPieceCols)
      piece(i, j, smaller<int64_t>(kPieceRows, block - i), smaller<int64_t>(kPieceCols, block - j));
}

template <int W, int NV, int I>
DSPARSE_INLINE void add_piece_of(const float* dy, const float* x, int64_t width, float* to) {
  if (width == 1) add_piece<W, NV, I, 1>(dy, x, to);
  else add_piece<W, NV, I, 2>(dy, x, to);
}

template <int W, int NV, int B>
DSPARSE_INLINE void add_block_dots(const float* dy, const float* x, int64_t block, float* to) {
  constexpr int NT = NV * W;
  if constexpr (B == 2) {
    add_piece<W, NV, 2, 2>(dy, x, to);
  } else if constexpr (B == 4) {
    add_piece<W, NV, 4, 2>(dy, x, to);
    add_piece<W, NV, 4, 2>(dy, x + 2 * NT, to + 8);
  } else {
    each_piece(block, [&](int64_t i, int64_t j, int64_t height, int64_t width) {
      if (height == 1) add_piece_of<W, NV, 1>(dy + i * NT, x + j * NT, width, to);
      if (height == 2) add_piece_of<W, NV, 2>(dy + i * NT, x + j * NT, width, to);
      if (height == 3) add_piece_of<W, NV, 3>(dy + i * NT, x + j * NT, width, to);
      if (height == 4) add_piece_of<W, NV, 4>(dy + i * NT, x + j * NT, width, to);
      to += height * width;
    });
  }
}

// Adds each packed feature's sum over the tile's tokens to its own in `to`.
template <int W, int NV>
inline void add_feature_sums(const float* packed, int64_t num_features, float* to) {
  for (int64_t f = 0; f < num_features; ++f, packed += NV * W) {
    F32<W> total = load<W>(packed);
#pragma GCC unroll 16
    for (int v = 1; v < NV; ++v) total += load<W>(packed + v * W);
    to[f] += sum<W>(total);
  }
}

}  // namespace tokens
}  // namespace DSPARSE_ISA
}  // namespace dsparse
