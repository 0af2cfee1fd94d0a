// Tiles of tokens, turned so that vectors run over tokens: packed[f * NT + t] is feature f of token t.
#pragma once

#include "gelu.h"
#include "simd.h"

namespace dsparse {
namespace DSPARSE_ISA {
namespace tokens {

// Features that are turned before the next W tokens are: their part of the tile stays in L1 until its lines are full.
constexpr int64_t kFeatureRun = 64;

// A part of a matrix that is asked for line by line, between other work, before it is needed.
struct Ahead {
  const char* row = nullptr;
  int64_t num_rows = 0;
  int64_t stride = 0;  // bytes, as the next two
  int64_t width = 0;
  int64_t at = 0;

  // Write: it is to be written, and must be this core's alone.
  template <int Write>
  DSPARSE_INLINE void ask() {
    if (num_rows == 0) return;
    __builtin_prefetch(row + at, Write, 2);
    at += 64;
    if (at < width) return;
    at = 0;
    row += stride;
    --num_rows;
  }
};

template <class Element>
inline Ahead ahead_of(const Element* x, int64_t stride, int64_t num_tokens, int64_t num_features) {
  constexpr int64_t size = sizeof(Element);
  return {reinterpret_cast<const char*>(x), num_tokens, stride * size, num_features * size, 0};
}

inline int64_t lines_of(const Ahead& ahead) { return ahead.num_rows * ceil_div(ahead.width, 64); }

// Packs `num_features` features of `num_tokens` <= NT rows of x, which are `stride` apart; tokens beyond become 0.
template <int W, int NT, class Element>
inline void pack_tile(const Element* x, int64_t stride, int64_t num_tokens, int64_t num_features, float* packed) {
  const int64_t num_whole = num_tokens / W * W;
  for (int64_t begin = 0; begin < num_features; begin += kFeatureRun) {
    const int64_t end = smaller(begin + kFeatureRun, num_features);
    for (int64_t t = 0; t < NT; t += W) {
      for (int64_t f = begin; f < end; f += W) {
        const int64_t num_rows = smaller<int64_t>(W, end - f);
        F32<W> rows[W];
        if (t < num_whole && num_rows == W) {
#pragma GCC unroll 16
          for (int i = 0; i < W; ++i) rows[i] = load<W>(x + (t + i) * stride + f);
          transpose<W>(rows);
#pragma GCC unroll 16
          for (int i = 0; i < W; ++i) store<W>(packed + (f + i) * NT + t, rows[i]);
        } else {
          for (int i = 0; i < W; ++i)
            rows[i] = t + i < num_tokens ? load_first<W>(x + (t + i) * stride + f, num_rows) : zero<W>();
          transpose<W>(rows);
          for (int i = 0; i < num_rows; ++i) store<W>(packed + (f + i) * NT + t, rows[i]);
        }
      }
    }
  }
}

// The way back, to y; where `pre` is not null, to `pre`, and GELU of it to y.
template <int W, int NT, class Element>
inline void unpack_tile(
    const float* packed, int64_t stride, int64_t num_tokens, int64_t num_features, Element* y, Element* pre) {
  for (int64_t begin = 0; begin < num_features; begin += kFeatureRun) {
    const int64_t end = smaller(begin + kFeatureRun, num_features);
    for (int64_t t = 0; t < num_tokens; t += W) {
      const int64_t num_rows = smaller<int64_t>(W, num_tokens - t);
      for (int64_t f = begin; f < end; f += W) {
        const int64_t count = smaller<int64_t>(W, end - f);
        F32<W> rows[W];
        if (count == W && num_rows == W && pre == nullptr) {
#pragma GCC unroll 16
          for (int i = 0; i < W; ++i) rows[i] = load<W>(packed + (f + i) * NT + t);
          transpose<W>(rows);
#pragma GCC unroll 16
          for (int i = 0; i < W; ++i) store<W>(y + (t + i) * stride + f, rows[i]);
          continue;
        }
        for (int i = 0; i < W; ++i) rows[i] = i < count ? load<W>(packed + (f + i) * NT + t) : zero<W>();
        transpose<W>(rows);
        for (int i = 0; i < num_rows; ++i) {
          const int64_t at = (t + i) * stride + f;
          if (pre != nullptr) {
            store_first<W>(pre + at, rows[i], count);
            rows[i] = gelu<W>(rows[i]);
          }
          store_first<W>(y + at, rows[i], count);
        }
      }
    }
  }
}

}  // namespace tokens
}  // namespace DSPARSE_ISA
}  // namespace dsparse
