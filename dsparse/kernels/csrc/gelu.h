// GELU, x · Φ(x) with Φ the normal distribution function, of a vector.
//
// Φ(-a) = exp(-a²/2) · Q(1 / (1 + 0.35 a)) for a >= 0, where Q is a polynomial fitted for the least relative error over
// a in [0, 14] (3.2e-08). Positive x take 1 - Φ(-x). So Φ is as good for very negative x as elsewhere, where
// (1 + erf(x / √2)) / 2 would cancel; what is left is the rounding of a², which grows with a as the result vanishes.
#pragma once

#include "simd.h"

namespace dsparse {
namespace DSPARSE_ISA {

// exp(-h) for 0 <= h <= 87: 2^n · exp(r) with |r| <= ln 2 / 2 and a Taylor polynomial of degree 7.
template <int W>
DSPARSE_INLINE F32<W> exp_of_minus(F32<W> h) {
  const float round = 12582912.f;  // 1.5 · 2^23: adding and subtracting it rounds to an integer
  const F32<W> n = (h * -1.44269504f + round) - round;
  // ln 2 in two parts, of which the first times n is exact.
  const F32<W> r = (-h - n * 0.693359375f) + n * 2.12194440e-4f;
  F32<W> p = broadcast<W>(1.f / 5040);
  p = fma(p, r, broadcast<W>(1.f / 720));
  p = fma(p, r, broadcast<W>(1.f / 120));
  p = fma(p, r, broadcast<W>(1.f / 24));
  p = fma(p, r, broadcast<W>(1.f / 6));
  p = fma(p, r, broadcast<W>(0.5f));
  p = fma(p, r, broadcast<W>(1.f));
  p = fma(p, r, broadcast<W>(1.f));
  const F32<W> power = (F32<W>)((__builtin_convertvector(n, I32<W>) + 127) << 23);
  return p * power;
}

template <int W>
DSPARSE_INLINE F32<W> gelu(F32<W> x) {
  const F32<W> a = x < 0.f ? -x : x;
  // Beyond 13.1 Φ(-a) is below the smallest normal float; NaN comes back through the last product.
  const I32<W> in_range = a < 13.1f;
  const F32<W> near = in_range ? a : broadcast<W>(13.1f);
  const F32<W> t = 1.f / (near * 0.35f + 1.f);
  F32<W> q = broadcast<W>(-0.0291459276f);
  q = fma(q, t, broadcast<W>(0.143971685f));
  q = fma(q, t, broadcast<W>(-0.255714227f));
  q = fma(q, t, broadcast<W>(0.159174129f));
  q = fma(q, t, broadcast<W>(-0.0231098138f));
  q = fma(q, t, broadcast<W>(0.105507995f));
  q = fma(q, t, broadcast<W>(0.11983287f));
  q = fma(q, t, broadcast<W>(0.139861869f));
  q = fma(q, t, broadcast<W>(0.139621404f));
  const F32<W> tail = exp_of_minus<W>(near * near * 0.5f) * (q * t);
  const F32<W> below = in_range ? tail : zero<W>();
  return x * (x < 0.f ? below : 1.f - below);
}

}  // namespace DSPARSE_ISA
}  // namespace dsparse
