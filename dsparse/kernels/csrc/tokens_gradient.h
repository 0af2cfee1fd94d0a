// Weight gradient over tiles of tokens: for each active weight a dot product of two packed rows.
//
// One side's rows are packed once per panel of tokens, for all threads; of the other, each thread packs the chunk that
// it works on, and that only ever lies in L1. The longer side is the latter: it is read once and written nowhere.
#pragma once

#include "tokens_dots.h"
#include "tokens_order.h"
#include "tokens_product.h"
#include "tokens_tile.h"

namespace dsparse {
namespace DSPARSE_ISA {
namespace tokens {

// Tokens packed between two barriers: enough to make these cheap, few enough for the packed rows to stay in L3.
constexpr int64_t kPanelTokens = 512;

constexpr int kGradientVectors = kWidth == 16 ? 6 : 8;

// What a weight gradient works on.
template <class Element>
struct Gradient {
  const Element* targets;  // [T, target features], the side that is packed for all threads
  const Element* sources;
  bool transposed;  // targets are x, sources dy
  int64_t num_targets, num_sources;  // features
  Element* dvalues;
  Element* dbias;  // or null
  float* rows;     // [tiles of a panel, target features, NT]
  float* sums;     // by entry, W floats of room between bands: each may be written past its end
  float* bias;     // [tiles of a panel + 1, O]
};

// One band for one tile of tokens; `sums` are the band's entries'. A function of its own for the registers' sake.
template <int W, int NV, int B>
__attribute__((noinline)) void multiply_rows(const Order& order, int64_t band, bool transposed, const float* rows,
                                             const float* packed, float* sums, Ahead ahead) {
  constexpr int NT = NV * W;
  const int64_t side = B == 0 ? order.block : B;
  const Span* const spans = order.band(band);
  const int64_t num_spans = order.num_spans[band];
  const int32_t* const offsets = order.offsets;
  const int64_t num_asked = num_spans == 0 ? 0 : ceil_div(lines_of(ahead), num_spans);
  for (int64_t s = 0; s < num_spans; ++s) {
    for (int64_t i = 0; i < num_asked; ++i) ahead.ask<0>();
    const Span span = spans[s];
    const float* row = rows + span.target * side * NT;
    if constexpr (B == 1) {
      add_span_dots<W, NV>(row, packed, offsets + span.begin, span.count, sums + span.begin);
    } else {
      for (int64_t k = span.begin; k < span.begin + span.count; ++k) {
        const float* other = packed + offsets[k];
        add_block_dots<W, NV, B>(transposed ? other : row, transposed ? row : other, side, sums + k * side * side);
      }
    }
  }
}

inline Cut cut_gradient(const Call& call, const Lines& lines, int64_t tile) {
  const int64_t line_bytes = call.block * tile * int64_t(sizeof(float));
  const int64_t chunk = even_share(lines.num_sources, kChunkBytes / line_bytes);
  const int64_t num_groups = ceil_div(2 * call.num_threads, ceil_div(lines.num_sources, chunk));
  const int64_t fair = ceil_div(lines.num_targets, num_groups);
  return {chunk, even_share(lines.num_targets, smaller(fair, kGroupBytes / line_bytes))};
}

// One thread's bands for a panel of tokens. Tile by tile, so that the tile's packed rows stay in L2.
template <int W, int NV, int B, class Element>
inline void run_part(const Call& call, const Gradient<Element>& gradient, const Order& order, int64_t panel,
                     int64_t num_tiles, int64_t part, float* packed) {
  constexpr int NT = NV * W;
  const int64_t block = B == 0 ? call.block : B;
  const int64_t num_bands = order.num_groups * order.num_chunks;
  const int64_t first = num_bands * part / call.num_threads, last = num_bands * (part + 1) / call.num_threads;
  const int64_t num_tasks = (last - first) * num_tiles;
  const auto tokens_of = [&](int64_t tile) { return smaller<int64_t>(NT, call.num_tokens - panel - tile * NT); };
  const auto begin_of = [&](int64_t band) { return order.first_source(band % order.num_chunks) * block; };
  const auto features_of = [&](int64_t band) { return order.num_sources(band % order.num_chunks) * block; };
  const auto part_of = [&](int64_t band, int64_t tile) {
    return gradient.sources + (panel + tile * NT) * gradient.num_sources + begin_of(band);
  };
  for (int64_t task = 0; task < num_tasks; ++task) {
    const int64_t tile = task / (last - first), band = first + task % (last - first);
    pack_tile<W, NT>(part_of(band, tile), gradient.num_sources, tokens_of(tile), features_of(band), packed);
    if (gradient.dbias != nullptr && gradient.transposed && band < order.num_chunks)
      add_feature_sums<W, NV>(packed, features_of(band), gradient.bias + begin_of(band));
    const int64_t next = task + 1, next_tile = next / (last - first), next_band = first + next % (last - first);
    const Ahead ahead = next == num_tasks ? Ahead{} : ahead_of(part_of(next_band, next_tile), gradient.num_sources,
                                                               tokens_of(next_tile), features_of(next_band));
    multiply_rows<W, NV, B>(order, band, gradient.transposed, gradient.rows + tile * gradient.num_targets * NT,
                            packed, gradient.sums + band * W, ahead);
  }
}

// Every thread of a parallel region calls it, with memory of its own for a packed chunk, or null if it has none: it
// must still meet the others at the loops' ends.
template <int W, int NV, int B, class Element>
inline void run_panel(const Call& call, const Gradient<Element>& gradient, const Order& order, int64_t panel,
                      int64_t num_tiles, float* packed) {
  constexpr int NT = NV * W;
  const int64_t width = gradient.num_targets;
  const bool sums_bias = gradient.dbias != nullptr && !gradient.transposed;
#pragma omp for
  for (int64_t tile = 0; tile < num_tiles; ++tile) {
    const int64_t token = panel + tile * NT, num_tokens = smaller<int64_t>(NT, call.num_tokens - token);
    float* rows = gradient.rows + tile * width * NT;
    pack_tile<W, NT>(gradient.targets + token * width, width, num_tokens, width, rows);
    if (!sums_bias) continue;
    memset(gradient.bias + (tile + 1) * width, 0, size_t(width) * sizeof(float));
    add_feature_sums<W, NV>(rows, width, gradient.bias + (tile + 1) * width);
  }
#pragma omp for schedule(static, 1)
  for (int64_t part = 0; part < call.num_threads; ++part)
    if (packed != nullptr) run_part<W, NV, B>(call, gradient, order, panel, num_tiles, part, packed);
  if (!sums_bias) return;
#pragma omp for
  for (int64_t f = 0; f < width; ++f)
    for (int64_t tile = 1; tile <= num_tiles; ++tile) gradient.bias[f] += gradient.bias[tile * width + f];
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
    const Span* spans = order.band(band);
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
  const bool transposed = call.num_out > call.num_in;
  const Lines lines = transposed ? by_cols(call) : by_rows(call);
  const Cut cut = cut_gradient(call, lines, NT);
  Order order;
  if (!make_order<16>(lines, cut, call, &order)) return kOutOfMemory;
  const int64_t num_tiles = larger<int64_t>(1, smaller(kPanelTokens, round_up(call.num_tokens, NT)) / NT);
  const int64_t num_sums = call.num_slots * call.block * call.block + (order.num_groups * order.num_chunks + 1) * W;
  const Element *dy = static_cast<const Element*>(call.dy), *x = static_cast<const Element*>(call.x);
  Gradient<Element> gradient = {};
  gradient.targets = transposed ? x : dy;
  gradient.sources = transposed ? dy : x;
  gradient.transposed = transposed;
  gradient.num_targets = transposed ? call.num_in : call.num_out;
  gradient.num_sources = transposed ? call.num_out : call.num_in;
  gradient.dvalues = static_cast<Element*>(call.dvalues);
  gradient.dbias = static_cast<Element*>(call.dbias);
  gradient.rows = scratch<27>(num_tiles * gradient.num_targets * NT);
  gradient.sums = scratch<28>(num_sums);
  gradient.bias = scratch<29>((num_tiles + 1) * call.num_out);
  if (gradient.rows == nullptr || gradient.sums == nullptr || gradient.bias == nullptr) return kOutOfMemory;
  memset(gradient.sums, 0, size_t(num_sums) * sizeof(float));
  memset(gradient.bias, 0, size_t(call.num_out) * sizeof(float));
  int num_failed = 0;
#pragma omp parallel num_threads(call.num_threads) if (call.num_threads > 1) reduction(+ : num_failed)
  {
    fill_order(order, call.block * NT, [](int64_t, int64_t) {});
    float* packed = scratch<25>(cut.chunk * call.block * NT);
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
  constexpr int W = kWidth, NV = kGradientVectors;
  switch (call.block) {
    case 1: return run_gradient<W, NV, 1, Element>(call);
    case 2: return run_gradient<W, NV, 2, Element>(call);
    case 4: return run_gradient<W, NV, 4, Element>(call);
    default: return run_gradient<W, NV, 0, Element>(call);
  }
}

}  // namespace tokens
}  // namespace DSPARSE_ISA
}  // namespace dsparse
