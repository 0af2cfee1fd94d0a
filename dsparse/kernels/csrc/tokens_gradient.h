// Weight gradient over tiles of tokens: for each active weight a dot product of two packed rows.
#pragma once

#include "tokens_order.h"
#include "tokens_product.h"
#include "tokens_tile.h"

namespace dsparse {
namespace DSPARSE_ISA {
namespace tokens {

// Tokens packed between two barriers: enough to make these cheap, few enough for the packed rows to stay in L3.
constexpr int64_t kPanelTokens = 512;

constexpr int gradient_vectors() { return kWidth == 16 ? 6 : 8; }

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

// The dot products of M entries of one span, 1×1 each: the row of dy is loaded once for all.
template <int W, int NV, int M>
DSPARSE_INLINE void add_dots(const float* dy, const float* packed, const int32_t* offsets, float* to) {
  F32<W> total[M];
#pragma GCC unroll 16
  for (int k = 0; k < M; ++k) total[k] = zero<W>();
  const float* x[M];
#pragma GCC unroll 16
  for (int k = 0; k < M; ++k) x[k] = packed + offsets[k];
#pragma GCC unroll 16
  for (int v = 0; v < NV; ++v) {
    const F32<W> row = load<W>(dy + v * W);
#pragma GCC unroll 16
    for (int k = 0; k < M; ++k) total[k] = fma(row, load<W>(x[k] + v * W), total[k]);
  }
  add_sums<W, M>(total, to);
}

template <int W, int NV>
DSPARSE_INLINE void add_span_dots(
    const float* dy, const float* packed, const int32_t* offsets, int64_t count, float* to) {
  while (count > 0) {
    const int64_t now = count >= 16 ? 8 : count > 8 ? (count + 1) / 2 : count;
    switch (now) {
      case 1: add_dots<W, NV, 1>(dy, packed, offsets, to); break;
      case 2: add_dots<W, NV, 2>(dy, packed, offsets, to); break;
      case 3: add_dots<W, NV, 3>(dy, packed, offsets, to); break;
      case 4: add_dots<W, NV, 4>(dy, packed, offsets, to); break;
      case 5: add_dots<W, NV, 5>(dy, packed, offsets, to); break;
      case 6: add_dots<W, NV, 6>(dy, packed, offsets, to); break;
      case 7: add_dots<W, NV, 7>(dy, packed, offsets, to); break;
      default: add_dots<W, NV, 8>(dy, packed, offsets, to); break;
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

// One band for one tile of tokens; `sums` are the band's entries'.
template <int W, int NV, int B>
inline void run_band(const Order& order, int64_t group, int64_t chunk, int64_t block, const float* packed_x,
                     const float* packed_dy, float* sums) {
  constexpr int NT = NV * W;
  const int64_t side = B == 0 ? block : B;
  const Span* spans = order.band(group, chunk);
  const int64_t num_spans = order.band_length(group, chunk);
  for (int64_t s = 0; s < num_spans; ++s) {
    const Span span = spans[s];
    const float* dy = packed_dy + span.target * side * NT;
    if constexpr (B == 1) {
      add_span_dots<W, NV>(dy, packed_x, order.offsets + span.begin, span.count, sums + span.begin);
    } else {
      for (int64_t k = span.begin; k < span.begin + span.count; ++k)
        add_block_dots<W, NV, B>(dy, packed_x + order.offsets[k], side, sums + k * side * side);
    }
  }
}

// Sums of a tile's rows of dy, by output.
template <int W, class Element>
inline void sum_rows(const Element* dy, int64_t stride, int64_t num_tokens, float* sums) {
  for (int64_t f = 0; f < stride; f += W) {
    const int64_t count = smaller<int64_t>(W, stride - f);
    F32<W> total = zero<W>();
    for (int64_t t = 0; t < num_tokens; ++t)
      total += count == W ? load<W>(dy + t * stride + f) : load_first<W>(dy + t * stride + f, count);
    store_first<W>(sums + f, total, count);
  }
}

inline Cut cut_gradient(const Call& call, const Lines& lines, int64_t tile) {
  const int64_t line_bytes = call.block * tile * int64_t(sizeof(float));
  const int64_t chunk = even_share(lines.num_sources, kChunkBytes / line_bytes);
  const int64_t num_groups = ceil_div(2 * call.num_threads, ceil_div(lines.num_sources, chunk));
  const int64_t fair = ceil_div(lines.num_targets, num_groups);
  return {chunk, even_share(lines.num_targets, smaller(fair, kGroupBytes / line_bytes))};
}

// What a weight gradient works on.
template <class Element>
struct Gradient {
  const Element* dy;
  const Element* x;
  Element* dvalues;
  Element* dbias;  // or null
  float* rows;     // [tiles of a panel, O, NT], packed dy
  float* sums;     // by entry, W floats of room between bands: each may be written past its end
  float* bias;     // [tiles of a panel + 1, O]
  int64_t num_sums;
};

// One thread's bands for a panel of tokens. Tile by tile, so that the tile's packed dy stays in L2.
template <int W, int NV, int B, class Element>
inline void run_part(const Call& call, const Gradient<Element>& gradient, const Order& order, int64_t panel,
                     int64_t num_tiles, int64_t part, float* packed) {
  constexpr int NT = NV * W;
  const int64_t block = B == 0 ? call.block : B;
  const int64_t num_bands = order.num_groups * order.num_chunks;
  const int64_t first = num_bands * part / call.num_threads, last = num_bands * (part + 1) / call.num_threads;
  for (int64_t tile = 0; tile < num_tiles; ++tile) {
    const int64_t token = panel + tile * NT, num_tokens = smaller<int64_t>(NT, call.num_tokens - token);
    for (int64_t band = first; band < last; ++band) {
      const int64_t group = band / order.num_chunks, chunk = band % order.num_chunks;
      pack_tile<W, NT>(gradient.x + token * call.num_in + order.first_source(chunk) * block, call.num_in, num_tokens,
                       order.num_sources(chunk) * block, packed);
      run_band<W, NV, B>(order, group, chunk, block, packed, gradient.rows + tile * call.num_out * NT,
                         gradient.sums + band * W);
    }
  }
}

template <int W, int NV, int B, class Element>
inline void run_panel(const Call& call, const Gradient<Element>& gradient, const Order& order, int64_t panel,
                      int64_t num_tiles, float* packed) {
  constexpr int NT = NV * W;
  const int64_t num_out = call.num_out;
#pragma omp for
  for (int64_t tile = 0; tile < num_tiles; ++tile) {
    const int64_t token = panel + tile * NT, num_tokens = smaller<int64_t>(NT, call.num_tokens - token);
    const Element* dy = gradient.dy + token * num_out;
    pack_tile<W, NT>(dy, num_out, num_tokens, num_out, gradient.rows + tile * num_out * NT);
    if (gradient.dbias != nullptr) sum_rows<W>(dy, num_out, num_tokens, gradient.bias + (tile + 1) * num_out);
  }
#pragma omp for schedule(static, 1)
  for (int64_t part = 0; part < call.num_threads; ++part)
    if (packed != nullptr) run_part<W, NV, B>(call, gradient, order, panel, num_tiles, part, packed);
  if (gradient.dbias == nullptr) return;
#pragma omp for
  for (int64_t f = 0; f < num_out; ++f)
    for (int64_t tile = 1; tile <= num_tiles; ++tile) gradient.bias[f] += gradient.bias[tile * num_out + f];
}

template <int B, class Element>
inline void write_block(const float* sums, int64_t block, Element* to) {
  const int64_t side = B == 0 ? block : B;
  each_piece(side, [&](int64_t i, int64_t j, int64_t height, int64_t width) {
    for (int64_t r = 0; r < height; ++r)
      for (int64_t c = 0; c < width; ++c) from_float(to + (i + r) * side + j + c, *sums++);
  });
}

template <int B, class Element>
inline void write_gradient(const Call& call, const Gradient<Element>& gradient, const Order& order, int64_t gap) {
  const int64_t size = int64_t(call.block) * call.block;
#pragma omp for nowait
  for (int64_t band = 0; band < order.num_groups * order.num_chunks; ++band) {
    const Span* spans = order.band(band / order.num_chunks, band % order.num_chunks);
    const int64_t num_spans = order.num_spans[band];
    for (int64_t s = 0; s < num_spans; ++s)
      for (int64_t k = spans[s].begin; k < spans[s].begin + spans[s].count; ++k)
        write_block<B>(gradient.sums + band * gap + k * size, call.block, gradient.dvalues + order.slots[k] * size);
  }
  if (gradient.dbias == nullptr) return;
#pragma omp for nowait
  for (int64_t f = 0; f < call.num_out; ++f) from_float(gradient.dbias + f, gradient.bias[f]);
}

template <int W, int NV, int B, class Element>
inline Status run_gradient(const Call& call) {
  constexpr int NT = NV * W;
  const Lines lines = by_rows(call);
  const Cut cut = cut_gradient(call, lines, NT);
  Order order;
  if (!make_order<16>(lines, cut, call.num_slots, &order)) return kOutOfMemory;
  const int64_t num_tiles = larger<int64_t>(1, smaller(kPanelTokens, round_up(call.num_tokens, NT)) / NT);
  const int64_t num_sums = call.num_slots * call.block * call.block + (order.num_groups * order.num_chunks + 1) * W;
  const Gradient<Element> gradient = {
      static_cast<const Element*>(call.dy), static_cast<const Element*>(call.x), static_cast<Element*>(call.dvalues),
      static_cast<Element*>(call.dbias), scratch<27>(num_tiles * call.num_out * NT), scratch<28>(num_sums),
      scratch<29>((num_tiles + 1) * call.num_out), num_sums};
  if (gradient.rows == nullptr || gradient.sums == nullptr || gradient.bias == nullptr) return kOutOfMemory;
  memset(gradient.sums, 0, size_t(num_sums) * sizeof(float));
  memset(gradient.bias, 0, size_t(call.num_out) * sizeof(float));
  int num_failed = 0;
#pragma omp parallel num_threads(call.num_threads) if (call.num_threads > 1) reduction(+ : num_failed)
  {
    fill_order(order, call.block * NT, [](int64_t, int64_t) {});
    float* packed = scratch<25>(cut.chunk * call.block * NT);
    // A thread without memory still meets the others' barriers.
    if (packed == nullptr) num_failed = 1;
    for (int64_t token = 0; token < call.num_tokens; token += num_tiles * NT)
      run_panel<W, NV, B>(call, gradient, order, token,
                          smaller(num_tiles, ceil_div(call.num_tokens - token, NT)), packed);
    write_gradient<B>(call, gradient, order, W);
  }
  return num_failed == 0 ? kOk : kOutOfMemory;
}

template <class Element>
inline Status gradient_by_block(const Call& call) {
  constexpr int W = kWidth;
  switch (call.block) {
    case 1: return run_gradient<W, gradient_vectors(), 1, Element>(call);
    case 2: return run_gradient<W, gradient_vectors(), 2, Element>(call);
    case 4: return run_gradient<W, gradient_vectors(), 4, Element>(call);
    default: return run_gradient<W, gradient_vectors(), 0, Element>(call);
  }
}

}  // namespace tokens
}  // namespace DSPARSE_ISA
}  // namespace dsparse
