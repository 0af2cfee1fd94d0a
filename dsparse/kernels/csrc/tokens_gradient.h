// Weight gradient over tiles of tokens: for each active weight a dot product of two packed rows.
//
// Tokens are cut into a few shares, as many for any number of threads; a task is one group of target lines for one
// share. It needs nothing of another task's, so threads wait for each other only at the end, where the shares' sums are
// added in their order. Of a tile, a task packs its targets' rows, which stay in L2, and then chunk after chunk of the
// sources, which only ever lie in L1. The longer side is the latter: it is then read once.
#pragma once

#include "tokens_dots.h"
#include "tokens_order.h"
#include "tokens_product.h"
#include "tokens_tile.h"

namespace dsparse {
namespace DSPARSE_ISA {
namespace tokens {

constexpr int64_t kShares = 4, kLeastShareTokens = 256;

constexpr int kGradientVectors = kWidth == 16 ? 6 : 8;

// What a weight gradient works on.
template <class Element>
struct Gradient {
  const Element* targets;            // [T, target features]
  const Element* sources;            // [T, source features]
  bool transposed;                   // targets are x, sources dy
  int64_t num_targets, num_sources;  // features
  int64_t num_shares, share_tokens;
  Element* dvalues;
  Element* dbias;     // or null
  float* sums;        // [shares, sums_stride]: by entry, W floats of room behind each band: it is written past its end
  int64_t sums_stride;
  float* bias;        // [shares, O]
};

// One band for one tile of tokens; `sums` are the band's entries'. A function of its own for the registers' sake.
template <int W, int NV, int B>
__attribute__((noinline)) void multiply_rows(const Order& order, int64_t band, bool transposed, const float* rows,
                                             const float* packed, float* sums, Ahead ahead, Ahead* targets,
                                             int64_t num_targets) {
  constexpr int NT = NV * W;
  const int64_t side = B == 0 ? order.block : B;
  const Span* const spans = order.band(band);
  const int64_t num_spans = order.num_spans[band];
  const int32_t* const offsets = order.offsets;
  const int64_t num_asked = num_spans == 0 ? 0 : ceil_div(lines_of(ahead), num_spans);
  const int64_t num_targets_asked = num_spans == 0 ? 0 : ceil_div(num_targets, num_spans);
  Ahead next_targets = *targets;
  for (int64_t s = 0; s < num_spans; ++s) {
    for (int64_t i = 0; i < num_asked; ++i) ahead.ask<0>();
    for (int64_t i = 0; i < num_targets_asked; ++i) next_targets.ask<0>();
    const Span span = spans[s];
    const float* row = rows + span.target * side * NT;
    // Rows follow in no order that the machine could foresee.
    const float* next_row = rows + spans[smaller(s + 1, num_spans - 1)].target * side * NT;
    for (int64_t at = 0; at < side * NT; at += 16) __builtin_prefetch(next_row + at, 0, 3);
    if constexpr (B == 1) {
      add_span_dots<W, NV>(row, packed, offsets + span.begin, span.count, sums + span.begin);
    } else {
      for (int64_t k = span.begin; k < span.begin + span.count; ++k) {
        const float* other = packed + offsets[k];
        add_block_dots<W, NV, B>(transposed ? other : row, transposed ? row : other, side, sums + k * side * side);
      }
    }
  }
  *targets = next_targets;
}

inline Cut cut_gradient(const Call& call, const Lines& lines, int64_t tile, int64_t num_shares) {
  const int64_t line_bytes = call.block * tile * int64_t(sizeof(float));
  // Two tasks for each thread, so that one who is late leaves work to the others; alone, it has no others.
  const int64_t num_tasks = call.num_threads > 1 ? 2 * call.num_threads : 1;
  const int64_t fair = ceil_div(lines.num_targets, ceil_div(num_tasks, num_shares));
  const int64_t chunk = kChunkBytes / line_bytes, large = kLargeChunkBytes / line_bytes;
  return {even_share(lines.num_sources, has_short_spans(call, lines, chunk, tile) ? large : chunk),
          even_share(lines.num_targets, smaller(fair, kGroupBytes / line_bytes))};
}

// One tile of a task: `rows` and `packed` are the thread's memory.
template <int W, int NV, int B, class Element>
inline void add_tile(const Call& call, const Gradient<Element>& gradient, const Order& order, int64_t group,
                     int64_t share, int64_t token, float* rows, float* packed) {
  constexpr int NT = NV * W;
  const int64_t block = B == 0 ? call.block : B, target_stride = gradient.num_targets;
  const int64_t end = smaller((share + 1) * gradient.share_tokens, call.num_tokens);
  const int64_t num_tokens = smaller<int64_t>(NT, end - token);
  const int64_t num_next = larger<int64_t>(0, smaller<int64_t>(NT, end - token - NT));
  const int64_t first = order.first_target(group) * block, num_features = order.num_targets(group) * block;
  float* sums = gradient.sums + share * gradient.sums_stride;
  float* bias = gradient.dbias == nullptr ? nullptr : gradient.bias + share * call.num_out;
  const Element* targets = gradient.targets + token * target_stride + first;
  const Element* sources = gradient.sources + token * gradient.num_sources;
  pack_tile<W, NT>(targets, target_stride, num_tokens, num_features, rows);
  if (bias != nullptr && !gradient.transposed) add_feature_sums<W, NV>(rows, num_features, bias + first);
  Ahead next_targets = ahead_of(targets + NT * target_stride, target_stride, num_next, num_features);
  const int64_t num_asked = ceil_div(lines_of(next_targets), order.num_chunks);
  for (int64_t chunk = 0; chunk < order.num_chunks; ++chunk) {
    const int64_t begin = order.first_source(chunk) * block, count = order.num_sources(chunk) * block;
    pack_tile<W, NT>(sources + begin, gradient.num_sources, num_tokens, count, packed);
    if (bias != nullptr && gradient.transposed && group == 0) add_feature_sums<W, NV>(packed, count, bias + begin);
    Ahead next = {};
    if (chunk + 1 < order.num_chunks)
      next = ahead_of(sources + begin + count, gradient.num_sources, num_tokens, order.num_sources(chunk + 1) * block);
    else if (num_next > 0)
      next = ahead_of(sources + NT * gradient.num_sources, gradient.num_sources, num_next,
                      order.num_sources(0) * block);
    const int64_t band = group * order.num_chunks + chunk;
    multiply_rows<W, NV, B>(order, band, gradient.transposed, rows - first * NT, packed, sums + band * W, next,
                            &next_targets, num_asked);
  }
}

// Adds the shares' sums up, in the first's place.
template <class Element>
inline void add_shares(const Gradient<Element>& gradient, int64_t num_out) {
#pragma omp for
  for (int64_t i = 0; i < gradient.sums_stride; i += kWidth) {
    F32<kWidth> total = load<kWidth>(gradient.sums + i);
    for (int64_t share = 1; share < gradient.num_shares; ++share)
      total += load<kWidth>(gradient.sums + share * gradient.sums_stride + i);
    store<kWidth>(gradient.sums + i, total);
  }
  if (gradient.dbias == nullptr) return;
#pragma omp for
  for (int64_t f = 0; f < num_out; ++f) {
    for (int64_t share = 1; share < gradient.num_shares; ++share)
      gradient.bias[f] += gradient.bias[share * num_out + f];
    from_float(gradient.dbias + f, gradient.bias[f]);
  }
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
}

template <int W, int NV, int B, class Element>
inline Status run_gradient(const Call& call) {
  constexpr int NT = NV * W;
  const bool transposed = call.num_out > call.num_in;
  const Lines lines = transposed ? by_cols(call) : by_rows(call);
  const int64_t share_tokens = round_up(larger(kLeastShareTokens, ceil_div(call.num_tokens, kShares)), NT);
  const int64_t num_shares = larger<int64_t>(1, ceil_div(call.num_tokens, share_tokens));
  const Cut cut = cut_gradient(call, lines, NT, num_shares);
  Order order;
  if (!make_order<16>(lines, cut, call, &order)) return kOutOfMemory;
  const Element *dy = static_cast<const Element*>(call.dy), *x = static_cast<const Element*>(call.x);
  Gradient<Element> gradient = {};
  gradient.targets = transposed ? x : dy;
  gradient.sources = transposed ? dy : x;
  gradient.transposed = transposed;
  gradient.num_targets = transposed ? call.num_in : call.num_out;
  gradient.num_sources = transposed ? call.num_out : call.num_in;
  gradient.dvalues = static_cast<Element*>(call.dvalues);
  gradient.dbias = static_cast<Element*>(call.dbias);
  gradient.num_shares = num_shares;
  gradient.share_tokens = share_tokens;
  gradient.sums_stride =
      round_up(call.num_slots * call.block * call.block + (order.num_groups * order.num_chunks + 1) * W, W);
  gradient.sums = scratch<27>(num_shares * gradient.sums_stride);
  gradient.bias = scratch<28>(num_shares * call.num_out);
  if (gradient.sums == nullptr || gradient.bias == nullptr) return kOutOfMemory;
  int num_failed = 0;
#pragma omp parallel num_threads(call.num_threads) if (call.num_threads > 1) reduction(+ : num_failed)
  {
#pragma omp for nowait
    for (int64_t share = 0; share < num_shares; ++share) {
      memset(gradient.sums + share * gradient.sums_stride, 0, size_t(gradient.sums_stride) * sizeof(float));
      memset(gradient.bias + share * call.num_out, 0, size_t(call.num_out) * sizeof(float));
    }
    fill_order(order, call.block * NT, [](int64_t, int64_t) {});
    float* rows = scratch<29>(cut.group * call.block * NT);
    float* packed = scratch<25>(cut.chunk * call.block * NT);
    if (rows == nullptr || packed == nullptr) num_failed = 1;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < num_shares * order.num_groups; ++task) {
      const int64_t share = task / order.num_groups, end = smaller((share + 1) * share_tokens, call.num_tokens);
      for (int64_t token = share * share_tokens; token < end && num_failed == 0; token += NT)
        add_tile<W, NV, B>(call, gradient, order, task % order.num_groups, share, token, rows, packed);
    }
    add_shares(gradient, call.num_out);
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
