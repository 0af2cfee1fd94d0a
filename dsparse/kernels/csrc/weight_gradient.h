// Weight gradient at the active blocks: dW[slot] = sum over tokens of dyᵀ x, and the bias gradient, dy over tokens.
//
// Tokens are cut into a few spans, as many for any number of threads, each with sums of its own; in the end these are
// added, the first span's first. So threads of different spans copy nothing twice. Where there are more threads than
// spans, the threads of a span share its blocks.
//
// The longer side of the matrix is walked line by line (block rows or block columns), and each task takes one stretch
// of the walk's blocks, cut at panels, and no other task's. Tile of tokens by tile of tokens it copies what it needs
// of the shorter side to scratch that fits half of L2, then goes along its lines: it copies a few lines of the longer
// side, which fit L1, and adds the products of their blocks to the sums. A few out features by a few vectors of in
// features at a time stay in registers while the tile's tokens are passed; per token and out feature one dy is
// broadcast. See tile.h for how the copies lie.
//
// Each span's sum is over its tokens in order, from the first to the last, by one thread, so the result depends neither
// on the tiles nor on the number of threads.
#pragma once

#include "abi.h"
#include "simd.h"
#include "spans.h"
#include "tile.h"

namespace dsparse {
namespace DSPARSE_ISA {
namespace blocks {

// What one call of a microkernel adds to and multiplies.
struct OuterProduct {
  float* sums;
  int64_t sums_stride;  // from one out feature to the next
  const float* dy;      // of the first token; `stride` floats from one token to the next, as for x
  const float* x;
  int64_t stride;
  int64_t num_columns;  // in features, where a panel is not whole
  int64_t num_tokens;
};

// MR out features by NV vectors of in features of one block, over a tile's tokens. Only the first `num_columns` in
// features where not Whole.
template <int W, int NV, int MR, bool Whole>
void add_outer_products(const OuterProduct& work) {
  F32<W> acc[MR][NV];
  float* sums = work.sums;
  const int64_t sums_stride = work.sums_stride, stride = work.stride;
  const float *dy = work.dy, *x = work.x;
#pragma GCC unroll 32
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v)
      acc[i][v] = Whole ? load<W>(sums + i * sums_stride + v * W)
                        : load_first<W>(sums + i * sums_stride, work.num_columns);
  for (int64_t t = work.num_tokens; t > 0; --t, dy += stride, x += stride) {
    F32<W> inputs[NV];
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) inputs[v] = load<W>(x + v * W);
#pragma GCC unroll 32
    for (int i = 0; i < MR; ++i) {
      const F32<W> gradient = broadcast<W>(dy[i]);
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) acc[i][v] = fma(gradient, inputs[v], acc[i][v]);
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) {
      if (Whole)
        store<W>(sums + i * sums_stride + v * W, acc[i][v]);
      else
        store_first<W>(sums + i * sums_stride, acc[i][v], work.num_columns);
    }
}

// The microkernels for 1, 2, ... out features at a time, and how a block is cut for them.
struct OuterProducts {
  static constexpr int kMost = 24;
  void (*run[kMost + 1])(const OuterProduct& work);
  int most;   // out features at a time
  int panel;  // in features at a time
};

template <int W, int NV, int MR, bool Whole>
void list_outer_products(OuterProducts& list) {
  list.run[MR] = add_outer_products<W, NV, MR, Whole>;
  if constexpr (MR > 1) list_outer_products<W, NV, MR - 1, Whole>(list);
}

// As many sums as registers hold beside the in features and a dy.
inline OuterProducts choose_outer_products(int block) {
  constexpr bool kMany = kRegisters >= 32;
  constexpr int W = kWidth, kNarrow = W > 8 ? 8 : W, kMostOfTwo = kMany ? 12 : 6, kMostOfOne = kMany ? 16 : 12;
  OuterProducts list = {};
  if (block % (2 * W) == 0) {
    list_outer_products<W, 2, kMostOfTwo, true>(list);
    list.most = kMostOfTwo;
    list.panel = 2 * W;
  } else if (block % W == 0) {
    list_outer_products<W, 1, kMostOfOne, true>(list);
    list.most = kMostOfOne;
    list.panel = W;
  } else if (block % kNarrow == 0) {
    list_outer_products<kNarrow, 1, kMostOfOne, true>(list);
    list.most = kMostOfOne;
    list.panel = kNarrow;
  } else {
    list_outer_products<kNarrow, 1, 8, false>(list);
    list.most = 8;
    list.panel = kNarrow;
  }
  return list;
}

// Adds columns [begin, end) of dy's tokens to their sums, a few vectors of columns at a time.
template <class Element>
void add_columns(float* sums, const Element* dy, int64_t row_length, int64_t num_tokens, int64_t begin, int64_t end) {
  constexpr int W = kWidth, kVectors = 8;
  int64_t o = begin;
  for (; o + kVectors * W <= end; o += kVectors * W) {
    F32<W> acc[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) acc[v] = load<W>(sums + o + v * W);
    for (int64_t t = 0; t < num_tokens; ++t)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) acc[v] += load<W>(dy + t * row_length + o + v * W);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) store<W>(sums + o + v * W, acc[v]);
  }
  for (int64_t t = 0; t < num_tokens; ++t)
    for (int64_t i = o; i < end; ++i) sums[i] += to_float(dy[t * row_length + i]);
}

// One side of the matrix: dy with its block rows, or x with its block columns.
template <class Element>
struct Side {
  const Element* tokens;  // [T, length]
  int64_t length;
  const int32_t* line_of_slot;  // [S]
  const int32_t* offsets;       // [lines + 1]
  const int32_t* slots;         // [S] by line
};

template <class Element>
struct WeightGradient {
  Side<Element> longer, shorter;
  bool longer_is_out;  // the longer side is dy's
  int64_t num_tokens, num_slots, block;
  int64_t lane;  // features that lie side by side in a tile; a block wider than a panel is cut into lanes of one panel
  OuterProducts kernels;
  // Out features of a lane that are computed at a time: num_larger groups of group + 1, the others of group. As even as
  // can be: few at a time leave multiply-adds waiting for each other.
  int64_t num_groups, group, num_larger;
  float* sums;       // [S, b, b]
  // dy once more, for the bias gradient.
  const Element* dy;
  int64_t num_out;
  float* bias_sums;  // [O] or null
};

// The blocks of one thread: units [begin, end), a unit being one panel of one entry of the longer side's order.
struct Share {
  int64_t begin, end;
  int64_t first_entry, end_entry;
};

// Adds one block's products, panels [first_panel, end_panel), over a tile's tokens.
template <class Element>
void add_block(const WeightGradient<Element>& job, int64_t slot, const float* dy, const float* x, int64_t capacity,
               int64_t first_panel, int64_t end_panel, int64_t num_tokens) {
  const int64_t b = job.block, lane = job.lane, width = job.kernels.panel;
  const int64_t panel_step = lane == width ? lane * capacity : width;
  for (int64_t p = first_panel; p < end_panel; ++p) {
    const int64_t column = p * width, num_columns = smaller(width, b - column);
    const float* x_panel = x + p * panel_step;
    float* sums = job.sums + slot * b * b + column;
    for (int64_t row = 0; row < b; row += lane) {
      const float* dy_lane = dy + row * capacity;
      for (int64_t g = 0, i = 0; g < job.num_groups; ++g) {
        const int64_t count = job.group + (g < job.num_larger ? 1 : 0);
        job.kernels.run[count]({sums + (row + i) * b, b, dy_lane + i, x_panel, lane, num_columns, num_tokens});
        i += count;
      }
    }
  }
}

// Which of the shorter side's lanes a stretch of entries needs, as a list; returns its length.
template <class Element>
int64_t list_needed(const WeightGradient<Element>& job, const Share& share, int32_t* needed) {
  const int64_t num_lanes = job.shorter.length / job.lane, per_line = job.block / job.lane;
  memset(needed, 0, sizeof(int32_t) * size_t(num_lanes));
  for (int64_t e = share.first_entry; e < share.end_entry; ++e)
    for (int64_t i = 0; i < per_line; ++i)
      needed[job.shorter.line_of_slot[job.longer.slots[e]] * per_line + i] = 1;
  int64_t count = 0;
  for (int64_t lane = 0; lane < num_lanes; ++lane)
    if (needed[lane] != 0) needed[count++] = int32_t(lane);
  return count;
}

// Copies those of the longer side's lines [first, end) that hold blocks.
constexpr int64_t kMostLanes = 64;
template <class Element>
void pack_lines(const WeightGradient<Element>& job, float* tile, int64_t capacity, int64_t first, int64_t end,
                int64_t t0, int64_t num_tokens) {
  int32_t used[kMostLanes];
  int64_t num_used = 0;
  const int64_t per_line = job.block / job.lane;
  for (int64_t line = first; line < end; ++line)
    for (int64_t i = 0; i < per_line; ++i)
      if (job.longer.offsets[line + 1] > job.longer.offsets[line])
        used[num_used++] = int32_t((line - first) * per_line + i);
  const Element* from = job.longer.tokens + t0 * job.longer.length + first * job.block;
  pack_tile(tile, capacity, from, job.longer.length, num_tokens, 0, used, num_used, job.lane);
}

// One thread's share over one tile of tokens, of which the shorter side is packed.
template <class Element>
void add_tile(const WeightGradient<Element>& job, const Share& share, const float* shorter, float* longer,
              int64_t capacity, int64_t t0, int64_t num_tokens) {
  const int64_t b = job.block, num_panels = ceil_div(b, job.kernels.panel);
  // 256 bytes of a row at a time, so that the memory's lines and pages are used before they go.
  const int64_t lines_at_once = larger<int64_t>(1, 64 / b), num_lines = job.longer.length / b;
  const Element* tokens = job.longer.tokens + t0 * job.longer.length;
  int64_t first_line = 0, end_line = 0, prefetched = num_tokens, per_entry = 0;
  for (int64_t e = share.first_entry; e < share.end_entry; ++e) {
    const int64_t slot = job.longer.slots[e], line = job.longer.line_of_slot[slot];
    if (line >= end_line) {
      first_line = line;
      end_line = smaller(line + lines_at_once, num_lines);
      pack_lines(job, longer, capacity, first_line, end_line, t0, num_tokens);
      prefetched = 0;
      per_entry = ceil_div(num_tokens, larger<int64_t>(1, job.longer.offsets[end_line] - e));
    }
    // The next lines, a few tokens with each block, so that they are there by the time they are copied.
    const int64_t until = end_line < num_lines ? smaller(prefetched + per_entry, num_tokens) : prefetched;
    prefetch_rows(tokens + end_line * b, job.longer.length, prefetched, until,
                  smaller(lines_at_once, num_lines - end_line) * b);
    prefetched = until;
    const float* of_longer = longer + (line - first_line) * capacity * b;
    const float* of_shorter = shorter + job.shorter.line_of_slot[slot] * capacity * b;
    add_block(job, slot, job.longer_is_out ? of_longer : of_shorter, job.longer_is_out ? of_shorter : of_longer,
              capacity, larger(share.begin - e * num_panels, int64_t{0}),
              smaller(share.end - e * num_panels, num_panels), num_tokens);
  }
}

// Calls visit(first value, number of values) for every stretch of values in a share's panels.
template <class Element, class Visit>
DSPARSE_INLINE void for_values(const WeightGradient<Element>& job, const Share& share, Visit visit) {
  const int64_t b = job.block, width = job.kernels.panel, num_panels = ceil_div(b, width);
  for (int64_t e = share.first_entry; e < share.end_entry; ++e) {
    const int64_t first = larger(share.begin - e * num_panels, int64_t{0}) * width;
    const int64_t end = smaller(smaller(share.end - e * num_panels, num_panels) * width, b);
    const int64_t block_values = job.longer.slots[e] * b * b;
    if (first == 0 && end == b)
      visit(block_values, b * b);
    else
      for (int64_t i = 0; i < b; ++i) visit(block_values + i * b + first, end - first);
  }
}

// One task's share of a span's blocks, `part` of `num_parts`. What it adds to is its own, so no thread waits.
template <class Element>
Status add_part(const WeightGradient<Element>& job, int part, int num_parts) {
  const int64_t b = job.block, num_panels = ceil_div(b, job.kernels.panel), num_units = job.num_slots * num_panels;
  Share share = {num_units * part / num_parts, num_units * (part + 1) / num_parts, 0, 0};
  share.first_entry = share.begin / num_panels;
  share.end_entry = ceil_div(share.end, num_panels);
  const int64_t o_begin = job.num_out * part / num_parts, o_end = job.num_out * (part + 1) / num_parts;

  int32_t* needed = reinterpret_cast<int32_t*>(scratch<kUsed>(job.shorter.length / job.lane));
  if (needed == nullptr) return kOutOfMemory;
  const int64_t num_needed = list_needed(job, share, needed);
  const int64_t capacity = smaller(tile_tokens(num_needed * job.lane, 24), job.num_tokens);
  float* shorter = scratch<kTile>(capacity * job.shorter.length);
  float* longer = scratch<kOtherTile>(capacity * larger<int64_t>(64, b));
  if (shorter == nullptr || longer == nullptr) return kOutOfMemory;

  for_values(job, share,
             [&](int64_t first, int64_t count) { memset(job.sums + first, 0, sizeof(float) * size_t(count)); });
  if (job.bias_sums != nullptr) memset(job.bias_sums + o_begin, 0, sizeof(float) * size_t(o_end - o_begin));
  for (int64_t t0 = 0; t0 < job.num_tokens; t0 += capacity) {
    const int64_t num_tokens = smaller(capacity, job.num_tokens - t0);
    if (job.bias_sums != nullptr)
      add_columns(job.bias_sums, job.dy + t0 * job.num_out, job.num_out, num_tokens, o_begin, o_end);
    const Element* tokens = job.shorter.tokens + t0 * job.shorter.length;
    pack_tile(shorter, capacity, tokens, job.shorter.length, num_tokens, 0, needed, num_needed, job.lane);
    add_tile(job, share, shorter, longer, capacity, t0, num_tokens);
  }
  return kOk;
}

template <class Element>
WeightGradient<Element> weight_gradient_job(const Call& call) {
  const Side<Element> out = {static_cast<const Element*>(call.dy), call.num_out, call.rows, call.row_offsets,
                             call.row_slots};
  const Side<Element> in = {static_cast<const Element*>(call.x), call.num_in, call.cols, call.col_offsets,
                            call.col_slots};
  WeightGradient<Element> job = {};
  job.longer_is_out = call.num_out >= call.num_in;
  job.longer = job.longer_is_out ? out : in;
  job.shorter = job.longer_is_out ? in : out;
  job.num_tokens = call.num_tokens;
  job.num_slots = call.num_slots;
  job.block = call.block;
  job.kernels = choose_outer_products(call.block);
  job.lane = call.block % job.kernels.panel == 0 ? job.kernels.panel : call.block;
  job.num_groups = ceil_div(job.lane, job.kernels.most);
  job.group = job.lane / job.num_groups;
  job.num_larger = job.lane % job.num_groups;
  job.dy = out.tokens;
  job.num_out = call.num_out;
  return job;
}

template <class Element>
Status run_weight_gradient(const Call& call) {
  const int64_t num_values = call.num_slots * call.block * call.block, num_tokens = call.num_tokens;
  const int64_t num_spans = larger<int64_t>(1, smaller(kMostSpans, num_tokens / kLeastSpanTokens));
  const bool with_bias = call.dbias != nullptr;
  const WeightGradient<Element> whole = weight_gradient_job<Element>(call);
  const SpanSums sums = place_sums<kSums, Element>(call.dvalues, num_values, num_spans);
  SpanSums bias_sums = {};
  if (with_bias) bias_sums = place_sums<kBiasSums, Element>(call.dbias, call.num_out, num_spans);
  if ((sums.of[0] == nullptr && num_values > 0) || (bias_sums.of[0] == nullptr && with_bias && call.num_out > 0))
    return kOutOfMemory;

  const int num_threads = int(larger<int64_t>(1, call.num_threads));
  // The least that gives each thread as many tasks.
  const int num_parts = int(num_threads / greatest_common_divisor(num_threads, num_spans));
  constexpr int64_t kStretch = 4096;
  int32_t status = kOk;
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
  {
#pragma omp for schedule(static)
    for (int64_t task = 0; task < num_spans * num_parts; ++task) {
      const int64_t span = task / num_parts, first = num_tokens * span / num_spans;
      WeightGradient<Element> job = whole;
      job.longer.tokens += first * job.longer.length;
      job.shorter.tokens += first * job.shorter.length;
      job.dy += first * job.num_out;
      job.num_tokens = num_tokens * (span + 1) / num_spans - first;
      job.sums = sums.of[span];
      job.bias_sums = bias_sums.of[span];
      if (add_part(job, int(task % num_parts), num_parts) != kOk) {
#pragma omp atomic write
        status = kOutOfMemory;
      }
    }
#pragma omp for schedule(static) nowait
    for (int64_t stretch = 0; stretch < ceil_div(num_values, kStretch); ++stretch)
      add_spans(static_cast<Element*>(call.dvalues), sums, num_spans, stretch * kStretch,
                smaller((stretch + 1) * kStretch, num_values));
#pragma omp single
    if (with_bias) add_spans(static_cast<Element*>(call.dbias), bias_sums, num_spans, 0, call.num_out);
  }
  return Status(status);
}

}  // namespace blocks
}  // namespace DSPARSE_ISA
}  // namespace dsparse
