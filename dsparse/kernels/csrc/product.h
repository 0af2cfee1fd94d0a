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

// Where a microkernel finds what it multiplies and where the sums of its tokens by one panel go.
struct PanelWork {
  const float* inputs;      // the tile, at the first of the tokens
  int64_t source_stride;    // floats from one block column of the tile to the next
  const int32_t* sources;   // of the line's blocks
  int64_t num_blocks;
  const float* panel;       // [num_blocks, b, outputs of the panel]
  const float* bias;        // what the sums start from
  float* sums;              // [tokens, outputs of the panel]
  int64_t sums_stride;
  int block;
};

// The sums of MR tokens and one panel of NV vectors over all blocks of a line, vectors running over outputs. The tile
// holds tokens by inputs. B is the block side.
template <int W, int NV, int MR, int B>
void multiply_panel(const PanelWork& work) {
  const int64_t num_blocks = work.num_blocks, source_stride = work.source_stride;
  const float *panel = work.panel, *inputs = work.inputs;
  const int32_t* sources = work.sources;
  F32<W> sums[MR][NV];
#pragma GCC unroll 2
  for (int v = 0; v < NV; ++v) {
    const F32<W> bias = load<W>(work.bias + v * W);
#pragma GCC unroll 32
    for (int i = 0; i < MR; ++i) sums[i][v] = bias;
  }
  for (int64_t e = 0; e < num_blocks; ++e) {
    const float* x = inputs + sources[e] * source_stride;
#pragma GCC unroll 8
    for (int k = 0; k < B; ++k) {
      F32<W> weights[NV];
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) weights[v] = load<W>(panel + v * W);
      panel += NV * W;
#pragma GCC unroll 32
      for (int i = 0; i < MR; ++i) {
        const F32<W> input = broadcast<W>(x[i * B + k]);
#pragma GCC unroll 2
        for (int v = 0; v < NV; ++v) sums[i][v] = fma(input, weights[v], sums[i][v]);
      }
    }
  }
  float* to = work.sums;
  const int64_t stride = work.sums_stride;
#pragma GCC unroll 32
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) store<W>(to + i * stride + v * W, sums[i][v]);
}

// The same for a panel of eight outputs, vectors running over tokens: NT vectors of tokens by MO outputs at a time. A
// single vector of outputs would need as many loads as multiply-adds, more than a core has time for. The tile holds
// inputs by tokens.
template <int W, int NT, int MO, int B>
void multiply_panel_by_tokens(const PanelWork& work) {
  constexpr int kTokens = NT * W;
  const int64_t b = B > 0 ? B : work.block, num_blocks = work.num_blocks, source_stride = work.source_stride;
  const float* inputs = work.inputs;
  const int32_t* sources = work.sources;
  for (int first = 0; first < 8; first += MO) {
    const float* panel = work.panel + first;
    F32<W> sums[MO][NT];
#pragma GCC unroll 8
    for (int o = 0; o < MO; ++o) {
      const F32<W> bias = broadcast<W>(work.bias[first + o]);
#pragma GCC unroll 4
      for (int v = 0; v < NT; ++v) sums[o][v] = bias;
    }
    for (int64_t e = 0; e < num_blocks; ++e) {
      const float* x = inputs + sources[e] * source_stride;
#pragma GCC unroll 4
      for (int64_t k = 0; k < b; ++k, x += kTokens, panel += 8) {
        F32<W> tokens[NT];
#pragma GCC unroll 4
        for (int v = 0; v < NT; ++v) tokens[v] = load<W>(x + v * W);
#pragma GCC unroll 8
        for (int o = 0; o < MO; ++o) {
          const F32<W> weight = broadcast<W>(panel[o]);
#pragma GCC unroll 4
          for (int v = 0; v < NT; ++v) sums[o][v] = fma(weight, tokens[v], sums[o][v]);
        }
      }
    }
#pragma GCC unroll 2
    for (int o = 0; o < MO; o += 4)
#pragma GCC unroll 4
      for (int v = 0; v < NT; ++v)
        store_columns<W>(work.sums + v * W * work.sums_stride + first + o, work.sums_stride, sums[o][v], sums[o + 1][v],
                         sums[o + 2][v], sums[o + 3][v]);
  }
}

// A microkernel with its measures.
struct Microkernel {
  void (*run)(const PanelWork&);
  int num_tokens;
  int panel;         // outputs
  bool interleaved;  // the tile holds inputs by num_tokens tokens, group by group
};

// Picks vectors and tokens: as many sums as registers hold beside what they are computed from.
template <int B>
Microkernel microkernel_of_block() {
  constexpr bool kMany = kRegisters >= 32;
  constexpr int W = kWidth, MR = kMany ? 12 : 6, MO = kMany ? 8 : 4;
  if constexpr (B > 0 && B % (2 * W) == 0)
    return {multiply_panel<W, 2, MR, B>, MR, 2 * W, false};
  else
    return {multiply_panel_by_tokens<W, 3, MO, B>, 3 * W, 8, true};
}

inline Microkernel choose_microkernel(int block) {
  switch (block) {
    case 8: return microkernel_of_block<8>();
    case 16: return microkernel_of_block<16>();
    case 32: return microkernel_of_block<32>();
    case 64: return microkernel_of_block<64>();
    case 128: return microkernel_of_block<128>();
    default: return microkernel_of_block<0>();
  }
}

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
  if (tile == nullptr) return kOutOfMemory;
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
