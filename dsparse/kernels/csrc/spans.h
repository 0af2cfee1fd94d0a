// Sums over a few spans of tokens, and how they become one: added in order, the first span's first, and rounded once.
#pragma once

#include "simd.h"

namespace dsparse {
namespace DSPARSE_ISA {
namespace blocks {

// Where each span's sums go: the first's to the result itself where that is of floats, the others' to scratch.
constexpr int64_t kMostSpans = 4, kLeastSpanTokens = 512;
struct SpanSums {
  float* of[kMostSpans];
};
template <int Slot, class Element>
SpanSums place_sums(void* result, int64_t count, int64_t num_spans) {
  constexpr bool kInPlace = sizeof(Element) == sizeof(float);
  SpanSums sums = {};
  float* elsewhere = scratch<Slot>((num_spans - (kInPlace ? 1 : 0)) * count);
  if (elsewhere == nullptr) return sums;
  for (int64_t span = 0; span < num_spans; ++span)
    sums.of[span] = kInPlace && span == 0 ? static_cast<float*>(result) : elsewhere + (span - (kInPlace ? 1 : 0)) * count;
  return sums;
}

// result[i] = the spans' sums at i, added in order, for i in [begin, end).
template <class Element>
void add_spans(Element* result, const SpanSums& sums, int64_t num_spans, int64_t begin, int64_t end) {
  constexpr int W = kWidth;
  int64_t i = begin;
  for (; i + W <= end; i += W) {
    F32<W> total = load<W>(sums.of[0] + i);
    for (int64_t span = 1; span < num_spans; ++span) total += load<W>(sums.of[span] + i);
    store<W>(result + i, total);
  }
  for (; i < end; ++i) {
    float total = sums.of[0][i];
    for (int64_t span = 1; span < num_spans; ++span) total += sums.of[span][i];
    from_float(result + i, total);
  }
}

inline int64_t greatest_common_divisor(int64_t a, int64_t b) {
  while (b != 0) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

}  // namespace blocks
}  // namespace DSPARSE_ISA
}  // namespace dsparse
