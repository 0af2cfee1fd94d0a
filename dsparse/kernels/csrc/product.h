// Forward and input gradient: both are "outputs of a line = sum over the line's blocks of inputs times block".
//
// Forward: lines are block rows, y = x Wᵀ. Input gradient: lines are block columns, dx = dy W. What differs is how a
// block is laid out for it, and that only the forward adds a bias and takes a GELU.
//
// Tiling, outermost first:
//   threads   each takes one stretch of tokens, then another
//   tiles     of tokens, as many as let the tile's inputs fit in half of L2 (tile.h)
//   lines     their weights are read once per tile
//   panels    of outputs of a line; a panel's weights lie in the order they are read, inputs outermost
//   tokens    as many as let their sums stay in registers while all blocks of the line are walked
// The sums in registers are at least 12 vectors: a fused multiply-add takes four cycles and two start in each.
//
// Every sum runs over the line's blocks in order and the inputs in order, from the first to the last, and always in the
// same instructions, so results depend neither on the tiles nor on the number of threads.
#pragma once

#include "abi.h"
#include "gelu.h"
#include "microkernels.h"
#include "simd.h"
#include "tile.h"

namespace dsparse {
namespace DSPARSE_ISA {
namespace blocks {

// What a product reads and writes, forward and input gradient alike.
template <class Element>
struct Product {
  const Element* inputs;    // [T, num_inputs]
  const Element* values;    // [S, b, b]
  const Element* bias;      // [num_outputs] or null
  Element* outputs;         // [T, num_outputs]
  Element* before_gelu;     // [T, num_outputs], or null for no GELU
  const int32_t* offsets;   // [lines + 1]
  const int32_t* slots;     // [S] by line
  const int32_t* sources;   // [S], the block of inputs that a slot's block takes
  const int32_t* source_offsets;  // [sources + 1], only to see which are empty
  int64_t num_tokens, num_inputs, num_outputs, num_slots;
  int block;
  int num_threads;
  bool transposed;  // values are [output, input], as in the forward, and not [input, output]
};

// Lays the weights of a line out as panels [panel][block][input][width], zeros beyond the block's side.
template <class Element>
void pack_line(float* to, const Product<Element>& product, int64_t line, int64_t width) {
  constexpr int W = kWidth < 8 ? kWidth : 8;
  const int64_t b = product.block, num_panels = ceil_div(b, width);
  const int64_t begin = product.offsets[line], end = product.offsets[line + 1];
  for (int64_t p = 0; p < num_panels; ++p) {
    const int64_t first = p * width, valid = smaller(width, b - first);
    for (int64_t e = begin; e < end; ++e, to += b * width) {
      const Element* block = product.values + product.slots[e] * b * b;
      if (!product.transposed) {
        for (int64_t k = 0; k < b; ++k) {
          copy_floats(to + k * width, block + k * b + first, valid);
          for (int64_t j = valid; j < width; ++j) to[k * width + j] = 0.f;
        }
      } else if (b % W == 0 && valid == width) {
        for (int64_t j = 0; j < width; j += W)
          for (int64_t k = 0; k < b; k += W) {
            F32<W> rows[W];
#pragma GCC unroll 8
            for (int r = 0; r < W; ++r) rows[r] = load<W>(block + (first + j + r) * b + k);
            transpose<W>(rows);
#pragma GCC unroll 8
            for (int r = 0; r < W; ++r) store<W>(to + (k + r) * width + j, rows[r]);
          }
      } else {
        for (int64_t k = 0; k < b; ++k)
          for (int64_t j = 0; j < width; ++j)
            to[k * width + j] = j < valid ? to_float(block[(first + j) * b + k]) : 0.f;
      }
    }
  }
}

// Writes sums that the microkernel could not put in place itself: rounded, through a GELU, or only a part of a panel.
template <int W, class Element>
void finish(const Product<Element>& product, int64_t first_token, int64_t num_tokens, int64_t column,
            int64_t num_columns, const float* sums, int64_t width) {
  for (int64_t i = 0; i < num_tokens; ++i, sums += width) {
    const int64_t at = (first_token + i) * product.num_outputs + column;
    for (int64_t j = 0; j < num_columns; j += W) {
      const F32<W> sum = load<W>(sums + j), y = product.before_gelu == nullptr ? sum : gelu<W>(sum);
      if (j + W <= num_columns) {
        if (product.before_gelu != nullptr) store<W>(product.before_gelu + at + j, sum);
        store<W>(product.outputs + at + j, y);
      } else {
        if (product.before_gelu != nullptr) store_first<W>(product.before_gelu + at + j, sum, num_columns - j);
        store_first<W>(product.outputs + at + j, y, num_columns - j);
      }
    }
  }
}

// What all threads share.
struct Packed {
  Microkernel microkernel;
  const float* panels;     // by entry, that is along the lines
  const float* bias;       // [lines, panels per line * width], or `width` zeros where there is none
  int64_t bias_stride;     // of a panel; 0 where there is none
  const int32_t* sources;  // [S] by entry
};

// What every token gets in the columns of lines without blocks: the bias, or GELU of it.
template <class Element>
struct EmptyLines {
  Element* outputs;      // [num_outputs]
  Element* before_gelu;  // [num_outputs]
  int32_t* runs;         // first and last line + 1 of each run of empty lines
  int64_t num_runs;
};

template <class Element>
bool find_empty_lines(EmptyLines<Element>& empty, const Product<Element>& product) {
  constexpr int W = kWidth < 8 ? kWidth : 8;
  const int64_t padded = round_up(product.num_outputs, W), num_lines = product.num_outputs / product.block;
  Element* memory = reinterpret_cast<Element*>(scratch<kEmpty>(2 * padded));
  int32_t* runs = reinterpret_cast<int32_t*>(scratch<kRuns>(num_lines + 2));
  if (memory == nullptr || runs == nullptr) return false;
  empty = {memory, memory + padded, runs, 0};
  for (int64_t j = 0; j < product.num_outputs; j += W) {
    const int64_t count = smaller<int64_t>(W, product.num_outputs - j);
    const F32<W> bias = product.bias == nullptr ? zero<W>() : load_first<W>(product.bias + j, count);
    store<W>(empty.before_gelu + j, bias);
    store<W>(empty.outputs + j, product.before_gelu == nullptr ? bias : gelu<W>(bias));
  }
  for (int64_t begin = 0, end; begin < num_lines; begin = end + 1) {
    for (end = begin; end < num_lines && product.offsets[end] == product.offsets[end + 1];) ++end;
    if (end == begin) continue;
    runs[2 * empty.num_runs] = int32_t(begin);
    runs[2 * empty.num_runs++ + 1] = int32_t(end);
  }
  return true;
}

// Writes the columns of lines without blocks token by token: where most are empty, nearly whole rows in one go.
template <class Element>
void write_empty_lines(const Product<Element>& product, const EmptyLines<Element>& empty, int64_t first_token,
                       int64_t num_tokens) {
  for (int64_t t = first_token; t < first_token + num_tokens; ++t)
    for (int64_t run = 0; run < empty.num_runs; ++run) {
      const int64_t begin = empty.runs[2 * run] * int64_t{product.block};
      const int64_t end = empty.runs[2 * run + 1] * int64_t{product.block}, at = t * product.num_outputs + begin;
      const size_t size = sizeof(Element) * size_t(end - begin);
      memcpy(product.outputs + at, empty.outputs + begin, size);
      if (product.before_gelu != nullptr) memcpy(product.before_gelu + at, empty.before_gelu + begin, size);
    }
}

// One tile: every line's panels against all its tokens. The next tile's tokens, `next_tokens`, are fetched ahead.
template <class Element>
void multiply_tile(const Product<Element>& product, const Packed& packed, const float* tile, int64_t capacity,
                   int64_t first_token, int64_t num_tokens, int64_t next_tokens) {
  constexpr int64_t kLargestSums = 12 * 32;  // of all microkernels, tokens times outputs
  alignas(64) float sums[kLargestSums];
  const int64_t b = product.block, width = packed.microkernel.panel, step = packed.microkernel.num_tokens;
  const int64_t num_panels = ceil_div(b, width), num_lines = product.num_outputs / b;
  PanelWork work = {};
  work.source_stride = capacity * b;
  work.block = product.block;
  const Element* next = product.inputs + (first_token + num_tokens) * product.num_inputs;
  for (int64_t line = 0; line < num_lines; ++line) {
    // The next tile's inputs, some with each line, so that they are there by the time they are copied.
    prefetch_rows(next, product.num_inputs, next_tokens * line / num_lines, next_tokens * (line + 1) / num_lines,
                  product.num_inputs);
    const int64_t first_entry = product.offsets[line];
    work.sources = packed.sources + first_entry;
    work.num_blocks = product.offsets[line + 1] - first_entry;
    if (work.num_blocks == 0) continue;  // write_empty_lines
    for (int64_t p = 0; p < num_panels; ++p) {
      const int64_t column = line * b + p * width, num_columns = smaller(width, b - p * width);
      const bool in_place = sizeof(Element) == sizeof(float) && product.before_gelu == nullptr && num_columns == width;
      work.panel = packed.panels + (first_entry * num_panels + p * work.num_blocks) * b * width;
      work.bias = packed.bias + (line * num_panels + p) * packed.bias_stride;
      for (int64_t m = 0; m < num_tokens; m += step) {
        const int64_t count = smaller(step, num_tokens - m);
        work.inputs = tile + m * b;
        if (in_place && count == step) {
          work.sums = reinterpret_cast<float*>(product.outputs) + (first_token + m) * product.num_outputs + column;
          work.sums_stride = product.num_outputs;
          packed.microkernel.run(work);
        } else {
          work.sums = sums;
          work.sums_stride = width;
          packed.microkernel.run(work);
          // In vectors no wider than those just written: a load that spans two stores waits until both are through.
          if (packed.microkernel.interleaved)
            finish<4>(product, first_token + m, count, column, num_columns, sums, width);
          else
            finish<kWidth>(product, first_token + m, count, column, num_columns, sums, width);
        }
      }
    }
  }
}

// One thread's tokens [begin, end), tile by tile.
template <class Element>
Status multiply_tokens(const Product<Element>& product, const Packed& packed, int64_t begin, int64_t end) {
  const int64_t b = product.block, num_sources = product.num_inputs / b, step = packed.microkernel.num_tokens;
  int32_t* used = reinterpret_cast<int32_t*>(scratch<kUsed>(num_sources));
  if (used == nullptr) return kOutOfMemory;
  const int64_t num_used = list_used(used, product.source_offsets, num_sources);
  const int64_t capacity = smaller(tile_tokens(num_used * b, step), round_up(end - begin, step));
  float* tile = scratch<kTile>(capacity * product.num_inputs);
  EmptyLines<Element> empty;
  if (tile == nullptr || !find_empty_lines(empty, product)) return kOutOfMemory;
  for (int64_t t0 = begin; t0 < end; t0 += capacity) {
    const int64_t num_tokens = smaller(capacity, end - t0);
    const Element* inputs = product.inputs + t0 * product.num_inputs;
    if (packed.microkernel.interleaved)
      pack_interleaved(tile, capacity, inputs, product.num_inputs, num_tokens, step, used, num_used, b);
    else
      pack_tile(tile, capacity, inputs, product.num_inputs, num_tokens, round_up(num_tokens, step), used, num_used, b);
    // Where most of them are not even read, fetching costs more than it saves.
    const int64_t next_tokens = 2 * num_used < num_sources ? 0 : smaller(capacity, end - t0 - num_tokens);
    multiply_tile(product, packed, tile, capacity, t0, num_tokens, next_tokens);
    write_empty_lines(product, empty, t0, num_tokens);
  }
  return kOk;
}

// The bias as floats, padded to whole panels; zeros for one panel where there is none.
template <class Element>
const float* pack_bias(const Product<Element>& product, int64_t width) {
  const int64_t b = product.block, num_panels = ceil_div(b, width);
  const int64_t num_lines = product.bias == nullptr ? 1 : product.num_outputs / b;
  float* bias = scratch<kBias>(num_lines * num_panels * width);
  if (bias == nullptr) return nullptr;
  memset(bias, 0, sizeof(float) * size_t(num_lines * num_panels * width));
  for (int64_t line = 0; line < num_lines && product.bias != nullptr; ++line)
    copy_floats(bias + line * num_panels * width, product.bias + line * b, b);
  return bias;
}

template <class Element>
Status run_product(const Product<Element>& product) {
  const Microkernel microkernel = choose_microkernel(product.block);
  const int64_t b = product.block, width = microkernel.panel, num_lines = product.num_outputs / b;
  const int64_t floats_per_block = ceil_div(b, width) * b * width;
  float* panels = scratch<kPanels>(product.num_slots * floats_per_block);
  int32_t* sources = reinterpret_cast<int32_t*>(scratch<kSources>(product.num_slots));
  const float* bias = pack_bias(product, width);
  if (panels == nullptr || sources == nullptr || bias == nullptr) return kOutOfMemory;
  const Packed packed = {microkernel, panels, bias, product.bias == nullptr ? 0 : width, sources};

  const int64_t step = microkernel.num_tokens, num_groups = ceil_div(product.num_tokens, step);
  const int num_threads = int(larger<int64_t>(1, smaller<int64_t>(product.num_threads, num_groups)));
  // More parts than threads, taken by whoever is free: another program may hold one of the cores for a while.
  const int64_t num_parts = larger<int64_t>(num_threads, smaller<int64_t>(4 * num_threads, product.num_tokens / 256));
  int32_t status = kOk;
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
  {
#pragma omp for schedule(static)
    for (int64_t line = 0; line < num_lines; ++line) {
      const int64_t begin = product.offsets[line];
      pack_line(panels + begin * floats_per_block, product, line, width);
      for (int64_t e = begin; e < product.offsets[line + 1]; ++e) sources[e] = product.sources[product.slots[e]];
    }
    // The barrier at the end of the loop above stands between packing and reading.
#pragma omp for schedule(dynamic, 1)
    for (int64_t part = 0; part < num_parts; ++part) {
      const int64_t begin = num_groups * part / num_parts * step;
      const int64_t end = smaller(num_groups * (part + 1) / num_parts * step, product.num_tokens);
      if (multiply_tokens(product, packed, begin, end) != kOk) {
#pragma omp atomic write
        status = kOutOfMemory;
      }
    }
  }
  return Status(status);
}

}  // namespace blocks
}  // namespace DSPARSE_ISA
}  // namespace dsparse
