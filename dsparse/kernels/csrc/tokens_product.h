// Forward and input gradient over tiles of tokens: sums of blocks times packed source features.
#pragma once

#include "tokens_order.h"
#include "tokens_tile.h"

namespace dsparse {
namespace DSPARSE_ISA {
namespace tokens {

// Bytes of a packed chunk that leave room in a 32 KB L1 for the sums and the entries that stream by.
constexpr int64_t kChunkBytes = 24 << 10;
// The same for L2: where entries are too few for sums to be fetched anew for each chunk that fits L1, and for blocks
// whose rows use a source vector so often that L2 is fast enough.
constexpr int64_t kLargeChunkBytes = 160 << 10;
constexpr int64_t kGroupBytes = 192 << 10;
constexpr int64_t kReusingBlock = 3;
// Below this many multiplied vectors a span does not pay for fetching its sums.
constexpr int64_t kShortSpan = 40;

// Block rows whose sums are kept in registers together.
constexpr int tile_rows(int block) { return block == 0 || block > 4 ? 4 : block; }

// Vectors of tokens beside them: enough sums to hide the latency of an FMA (4 cycles, 2 a cycle), and to load each
// source vector once for all rows; together with a source vector each and a weight they fit the registers.
constexpr int product_vectors(int rows) {
  if (kRegisters >= 32) return rows == 1 ? 8 : rows == 2 ? 8 : 6;
  return rows == 1 ? 8 : rows == 2 ? 6 : rows == 3 ? 4 : 3;
}

// Adds the products of a span's entries to RB rows of sums. `weights` holds, for each entry and each source feature of
// its block, the weights of the B targets. B is the block side, 0 if known only as `block`.
template <int W, int NV, int B, int RB>
DSPARSE_INLINE void add_products(
    const float* packed, const int32_t* offsets, const float* weights, int64_t count, int64_t block, float* sums) {
  constexpr int NT = NV * W;
  const int64_t side = B == 0 ? block : B;
  F32<W> total[RB][NV];
#pragma GCC unroll 8
  for (int i = 0; i < RB; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < NV; ++v) total[i][v] = load<W>(sums + i * NT + v * W);
  int64_t k = 0;
  do {  // a span has an entry, and a loop that might do nothing would have its sums kept twice
    const float* source = packed + offsets[k];
    const float* weight = weights + k * side * side;
#pragma GCC unroll 4
    for (int64_t j = 0; j < side; ++j) {
      // What there is less of stays in registers: source vectors, or weights.
      if constexpr (RB < NV) {
        F32<W> w[RB];
#pragma GCC unroll 8
        for (int i = 0; i < RB; ++i) w[i] = broadcast<W>(weight[j * side + i]);
#pragma GCC unroll 16
        for (int v = 0; v < NV; ++v) {
          const F32<W> x = load<W>(source + j * NT + v * W);
#pragma GCC unroll 8
          for (int i = 0; i < RB; ++i) total[i][v] = fma(w[i], x, total[i][v]);
        }
      } else {
        F32<W> x[NV];
#pragma GCC unroll 16
        for (int v = 0; v < NV; ++v) x[v] = load<W>(source + j * NT + v * W);
#pragma GCC unroll 8
        for (int i = 0; i < RB; ++i) {
          const F32<W> w = broadcast<W>(weight[j * side + i]);
#pragma GCC unroll 16
          for (int v = 0; v < NV; ++v) total[i][v] = fma(w, x[v], total[i][v]);
        }
      }
    }
  } while (++k < count);
#pragma GCC unroll 8
  for (int i = 0; i < RB; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < NV; ++v) store<W>(sums + i * NT + v * W, total[i][v]);
}

// A span's products for all rows of its blocks.
template <int W, int NV, int B>
DSPARSE_INLINE void add_span(
    const float* packed, const int32_t* offsets, const float* weights, int64_t count, int64_t block, float* sums) {
  constexpr int RB = tile_rows(B), NT = NV * W;
  if constexpr (B != 0 && B <= 4) {
    add_products<W, NV, B, RB>(packed, offsets, weights, count, block, sums);
  } else {
    int64_t i = 0;
    for (; i + RB <= block; i += RB)
      add_products<W, NV, B, RB>(packed, offsets, weights + i, count, block, sums + i * NT);
    if (block - i == 3) add_products<W, NV, B, 3>(packed, offsets, weights + i, count, block, sums + i * NT);
    if (block - i == 2) add_products<W, NV, B, 2>(packed, offsets, weights + i, count, block, sums + i * NT);
    if (block - i == 1) add_products<W, NV, B, 1>(packed, offsets, weights + i, count, block, sums + i * NT);
  }
}

// What a band's products are computed from. `sums` begin at the group's first target.
struct BandWork {
  const float* packed;
  const Span* spans;
  int64_t num_spans;
  const int32_t* offsets;
  const float* weights;
  float* sums;
  int64_t first_target;
  int64_t block;
  Ahead ahead;   // the next chunk's part of the source
  Ahead* output;  // what the sums will be written to
  int64_t num_output;  // its lines to be asked for during this band
};

// A function of its own, so that its few variables are given registers.
template <int W, int NV, int B>
__attribute__((noinline)) void multiply_band(const BandWork& work) {
  constexpr int NT = NV * W;
  const int64_t side = B == 0 ? work.block : B, size = side * side, num_spans = work.num_spans;
  const float* const packed = work.packed;
  const Span* const spans = work.spans;
  const int32_t* const offsets = work.offsets;
  const float* const weights = work.weights;
  float* const sums = work.sums - work.first_target * side * NT;
  Ahead ahead = work.ahead, output = *work.output;
  const int64_t num_asked = num_spans == 0 ? 0 : ceil_div(lines_of(ahead), num_spans);
  const int64_t num_output = num_spans == 0 ? 0 : ceil_div(work.num_output, num_spans);
  for (int64_t s = 0; s < num_spans; ++s) {
    for (int64_t i = 0; i < num_asked; ++i) ahead.ask<0>();
    for (int64_t i = 0; i < num_output; ++i) output.ask<1>();
    const Span span = spans[s];
    add_span<W, NV, B>(packed, offsets + span.begin, weights + span.begin * size, span.count, side,
                       sums + span.target * side * NT);
  }
  *work.output = output;
}

template <class Element>
struct Product {
  const Element* source;
  const Element* values;
  const Element* bias;  // or null
  Element* target;
  Element* pre;    // or null
  bool transpose;  // blocks: the forward pass wants, for a source feature (a column), the weights of all rows together
};

template <class Element>
inline void copy_block(const Element* from, int64_t block, bool transpose, float* to) {
  for (int64_t i = 0; i < block; ++i)
    for (int64_t j = 0; j < block; ++j) to[transpose ? j * block + i : i * block + j] = to_float(from[i * block + j]);
}

// Whether a span of a chunk of this many lines multiplies few vectors, on average.
inline bool has_short_spans(const Call& call, const Lines& lines, int64_t chunk, int64_t tile) {
  const int64_t num_places = larger<int64_t>(1, lines.num_sources * lines.num_targets);
  const int64_t num_weights = call.num_slots * chunk * call.block * call.block / num_places;
  return num_weights * (tile / kWidth) < kShortSpan;
}

inline Cut cut_product(const Call& call, const Lines& lines, int64_t tile) {
  const int64_t line_bytes = call.block * tile * int64_t(sizeof(float));
  int64_t chunk = kChunkBytes / line_bytes;
  if (call.block >= kReusingBlock || has_short_spans(call, lines, chunk, tile)) chunk = kLargeChunkBytes / line_bytes;
  const int64_t num_tiles = larger<int64_t>(1, ceil_div(call.num_tokens, tile));
  const int64_t fair = ceil_div(lines.num_targets, ceil_div(call.num_threads, num_tiles));
  return {even_share(lines.num_sources, chunk), even_share(lines.num_targets, smaller(fair, kGroupBytes / line_bytes))};
}

// One group of targets for one tile of tokens.
template <int W, int NV, int B, class Element>
inline void run_tile(const Call& call, const Product<Element>& product, const Order& order, const float* weights,
                     int64_t group, int64_t token, float* packed, float* sums) {
  constexpr int NT = NV * W;
  const int64_t block = B == 0 ? call.block : B;
  const int64_t num_tokens = smaller<int64_t>(NT, call.num_tokens - token);
  const int64_t first = order.first_target(group), num_features = order.num_targets(group) * block;
  const int64_t source_stride = order.lines.num_sources * block, target_stride = order.lines.num_targets * block;
  const Element* source = product.source + token * source_stride;
  for (int64_t f = 0; f < num_features; ++f) {
    const F32<W> start = broadcast<W>(product.bias == nullptr ? 0.0f : to_float(product.bias[first * block + f]));
    for (int v = 0; v < NV; ++v) store<W>(sums + f * NT + v * W, start);
  }
  const int64_t at = token * target_stride + first * block;
  Ahead output = ahead_of(product.target + at, target_stride, num_tokens, num_features);
  const int64_t num_output = ceil_div(lines_of(output), order.num_chunks);
  for (int64_t chunk = 0; chunk < order.num_chunks; ++chunk) {
    pack_tile<W, NT>(source + order.first_source(chunk) * block, source_stride, num_tokens,
                     order.num_sources(chunk) * block, packed);
    BandWork work = {packed, order.band(group, chunk), order.band_length(group, chunk), order.offsets, weights, sums,
                     first, block, {}, &output, num_output};
    if (chunk + 1 < order.num_chunks)
      work.ahead = ahead_of(source + order.first_source(chunk + 1) * block, source_stride, num_tokens,
                            order.num_sources(chunk + 1) * block);
    else if (token + NT < call.num_tokens)
      work.ahead = ahead_of(source + NT * source_stride, source_stride,
                            smaller<int64_t>(NT, call.num_tokens - token - NT), order.num_sources(0) * block);
    multiply_band<W, NV, B>(work);
  }
  unpack_tile<W, NT>(sums, target_stride, num_tokens, num_features, product.target + at,
                     product.pre == nullptr ? nullptr : product.pre + at);
}

template <int W, int NV, int B, class Element>
inline Status run_product(const Call& call, const Product<Element>& product, const Lines& lines) {
  constexpr int NT = NV * W;
  const int64_t block = call.block, size = block * block;
  const Cut cut = cut_product(call, lines, NT);
  Order order;
  float* weights = scratch<24>(call.num_slots * size);
  if (!make_order<16>(lines, cut, call, &order) || weights == nullptr) return kOutOfMemory;
  const int64_t num_tiles = ceil_div(call.num_tokens, NT);
  int num_failed = 0;
#pragma omp parallel num_threads(call.num_threads) if (call.num_threads > 1) reduction(+ : num_failed)
  {
    fill_order(order, block * NT, [&](int64_t entry, int64_t slot) {
      copy_block(product.values + slot * size, block, product.transpose, weights + entry * size);
    });
    float* packed = scratch<25>(cut.chunk * block * NT);
    float* sums = scratch<26>(cut.group * block * NT);
    if (packed == nullptr || sums == nullptr) num_failed = 1;
    // A few tiles at a time: the next one's source is then mostly this thread's to ask for.
#pragma omp for schedule(dynamic, 4)
    for (int64_t task = 0; task < num_tiles * order.num_groups; ++task)
      if (num_failed == 0)
        run_tile<W, NV, B>(call, product, order, weights, task / num_tiles, task % num_tiles * NT, packed, sums);
  }
  return num_failed == 0 ? kOk : kOutOfMemory;
}

template <class Element>
inline Status product_by_block(const Call& call, const Product<Element>& product, const Lines& lines) {
  constexpr int W = kWidth;
  if (call.num_tokens == 0) return kOk;
  switch (call.block) {
    case 1: return run_product<W, product_vectors(1), 1>(call, product, lines);
    case 2: return run_product<W, product_vectors(2), 2>(call, product, lines);
    case 3: return run_product<W, product_vectors(3), 3>(call, product, lines);
    case 4: return run_product<W, product_vectors(4), 4>(call, product, lines);
    default: return run_product<W, product_vectors(4), 0>(call, product, lines);
  }
}

}  // namespace tokens
}  // namespace DSPARSE_ISA
}  // namespace dsparse
