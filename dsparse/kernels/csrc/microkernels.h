// The innermost loops of forward and input gradient (product.h): some tokens by one panel of outputs of a line, over
// all blocks of the line, with the sums in registers.
#pragma once

#include "simd.h"

namespace dsparse {
namespace DSPARSE_ISA {
namespace blocks {

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

}  // namespace blocks
}  // namespace DSPARSE_ISA
}  // namespace dsparse
