// Vectors of floats, and what the kernels do with them, in GCC's and Clang's vector extensions.
//
// Every file that includes this one is compiled once per instruction set, with DSPARSE_ISA its name, DSPARSE_WIDTH the
// floats in its widest vector and DSPARSE_REGISTERS the number of its vector registers. All names lie in a namespace
// of that instruction set: were two copies of one inline function to meet in the linker, it would keep either, and a
// machine without AVX could be handed the one that uses it. For the same reason nothing here calls functions of the
// standard library that are templates or inline.
//
// Widths are template parameters, 4, 8 or 16 floats. A width beyond the machine's is right but slow: the compiler
// takes such vectors apart. That is how the 16-wide code is tested on machines without AVX-512.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace dsparse {
namespace DSPARSE_ISA {

#ifndef _OPENMP
// Without OpenMP every parallel region is one thread's.
inline int omp_get_thread_num() { return 0; }
inline int omp_get_num_threads() { return 1; }
#endif

constexpr int kWidth = DSPARSE_WIDTH;
constexpr int kRegisters = DSPARSE_REGISTERS;

// bfloat16 as stored: the upper half of a float.
struct Bf16 {
  uint16_t bits;
};

template <int W>
struct Vectors {
  typedef float f32 __attribute__((vector_size(W * 4)));
  typedef int32_t i32 __attribute__((vector_size(W * 4)));
  typedef uint32_t u32 __attribute__((vector_size(W * 4)));
  typedef uint16_t u16 __attribute__((vector_size(W * 2)));
};
template <int W>
using F32 = typename Vectors<W>::f32;
template <int W>
using I32 = typename Vectors<W>::i32;
template <int W>
using U32 = typename Vectors<W>::u32;

// Always inlined: a vector wider than the instruction set's must not cross a call, and hot loops hold no calls.
#define DSPARSE_INLINE inline __attribute__((always_inline))

template <class A>
DSPARSE_INLINE constexpr A smaller(A a, A b) {
  return a < b ? a : b;
}
template <class A>
DSPARSE_INLINE constexpr A larger(A a, A b) {
  return a < b ? b : a;
}
DSPARSE_INLINE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
DSPARSE_INLINE constexpr int64_t round_up(int64_t a, int64_t multiple) { return ceil_div(a, multiple) * multiple; }

template <int W>
DSPARSE_INLINE F32<W> zero() {
  return F32<W>{};
}

template <int W>
DSPARSE_INLINE F32<W> broadcast(float value) {
  return value - F32<W>{};  // x - 0 is x for every x and folds away; 0 + x is not for -0, and would not
}

// a · b + c. Compiled with -ffp-contract=fast: one instruction, one rounding, where the machine has it.
template <class V>
DSPARSE_INLINE V fma(V a, V b, V c) {
  return a * b + c;
}

// W values from any address.
template <int W>
DSPARSE_INLINE F32<W> load(const float* from) {
  F32<W> v;
  memcpy(&v, from, sizeof v);
  return v;
}

template <int W>
DSPARSE_INLINE F32<W> load(const Bf16* from) {
  typename Vectors<W>::u16 half;
  memcpy(&half, from, sizeof half);
  return (F32<W>)(__builtin_convertvector(half, U32<W>) << 16);
}

template <int W>
DSPARSE_INLINE void store(float* to, F32<W> v) {
  memcpy(to, &v, sizeof v);
}

// Rounds to nearest, ties to even; NaN stays NaN (without the test, one with all its set bits low would turn to inf).
template <int W>
DSPARSE_INLINE void store(Bf16* to, F32<W> v) {
  const U32<W> bits = (U32<W>)v;
  const U32<W> rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const U32<W> is_nan = (U32<W>)(v != v);
  const auto half = __builtin_convertvector((rounded & ~is_nan) | (is_nan & 0x7fc0u), typename Vectors<W>::u16);
  memcpy(to, &half, sizeof half);
}

DSPARSE_INLINE float to_float(float value) { return value; }
DSPARSE_INLINE float to_float(Bf16 value) {
  const uint32_t bits = uint32_t(value.bits) << 16;
  float wide;
  memcpy(&wide, &bits, sizeof wide);
  return wide;
}

DSPARSE_INLINE void from_float(float* to, float value) { *to = value; }
DSPARSE_INLINE void from_float(Bf16* to, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  to->bits = value != value ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// The first `count` <= W values, zeros behind them.
template <int W, class Element>
DSPARSE_INLINE F32<W> load_first(const Element* from, int64_t count) {
  alignas(64) Element padded[W] = {};
  memcpy(padded, from, sizeof(Element) * size_t(count));
  return load<W>(padded);
}

// Only the first `count` <= W values.
template <int W, class Element>
DSPARSE_INLINE void store_first(Element* to, F32<W> v, int64_t count) {
  alignas(64) Element padded[W];
  store<W>(padded, v);
  memcpy(to, padded, sizeof(Element) * size_t(count));
}

// The sum of all W values, in one fixed order: halves are added to each other until one is left.
template <int W>
DSPARSE_INLINE float sum(F32<W> v) {
  alignas(64) float values[W];
  store<W>(values, v);
  for (int half = W / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) values[i] += values[i + half];
  return values[0];
}

// values[Pick::at(j)] for each j, the values being those of a (0 .. W-1) and b (W .. 2W-1).
template <int W, class Pick, int... J>
DSPARSE_INLINE F32<W> shuffled(F32<W> a, F32<W> b, std::integer_sequence<int, J...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, Pick::at(J)...);
#else
  return __builtin_shuffle(a, b, I32<W>{Pick::at(J)...});
#endif
}
template <int W, class Pick>
DSPARSE_INLINE F32<W> shuffle(F32<W> a, F32<W> b) {
  return shuffled<W, Pick>(a, b, std::make_integer_sequence<int, W>{});
}

// Within each lane of four: {a0 b0 a1 b1} from the lower half, {a2 b2 a3 b3} from the upper; W by W values.
template <int W, int Upper>
struct InterleaveOnes {
  static constexpr int at(int j) { return (j & ~3) + 2 * Upper + ((j >> 1) & 1) + (j & 1) * W; }
};
// Within each lane of four: {a0 a1 b0 b1} or {a2 a3 b2 b3}.
template <int W, int Upper>
struct InterleaveTwos {
  static constexpr int at(int j) { return (j & ~3) + 2 * Upper + (j & 1) + ((j >> 1) & 1) * W; }
};
// Exchanges stretches of `Step` values between two rows that are `Step` apart.
template <int W, int Step, int Second>
struct Exchange {
  static constexpr int at(int j) {
    return Second == 0 ? ((j & Step) == 0 ? j : j - Step + W) : ((j & Step) == 0 ? j + Step : j + W);
  }
};

template <int W, int Step>
DSPARSE_INLINE void exchange(F32<W> (&rows)[W]) {
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    if ((i & Step) != 0) continue;
    const F32<W> a = rows[i], b = rows[i + Step];
    rows[i] = shuffle<W, Exchange<W, Step, 0>>(a, b);
    rows[i + Step] = shuffle<W, Exchange<W, Step, 1>>(a, b);
  }
}

// Transposes W rows of W values in registers: first 4x4 within lanes of four, then the lanes.
template <int W>
DSPARSE_INLINE void transpose(F32<W> (&rows)[W]) {
#pragma GCC unroll 4
  for (int i = 0; i < W; i += 4) {
    const F32<W> a = shuffle<W, InterleaveOnes<W, 0>>(rows[i], rows[i + 1]);
    const F32<W> b = shuffle<W, InterleaveOnes<W, 1>>(rows[i], rows[i + 1]);
    const F32<W> c = shuffle<W, InterleaveOnes<W, 0>>(rows[i + 2], rows[i + 3]);
    const F32<W> d = shuffle<W, InterleaveOnes<W, 1>>(rows[i + 2], rows[i + 3]);
    rows[i] = shuffle<W, InterleaveTwos<W, 0>>(a, c);
    rows[i + 1] = shuffle<W, InterleaveTwos<W, 1>>(a, c);
    rows[i + 2] = shuffle<W, InterleaveTwos<W, 0>>(b, d);
    rows[i + 3] = shuffle<W, InterleaveTwos<W, 1>>(b, d);
  }
  if constexpr (W >= 8) exchange<W, 4>(rows);
  if constexpr (W >= 16) exchange<W, 8>(rows);
}

// Writes four vectors as columns: row i of W rows gets {a[i] b[i] c[i] d[i]}.
template <int W>
DSPARSE_INLINE void store_columns(float* to, int64_t row_stride, F32<W> a, F32<W> b, F32<W> c, F32<W> d) {
  const F32<W> ab_low = shuffle<W, InterleaveOnes<W, 0>>(a, b), ab_high = shuffle<W, InterleaveOnes<W, 1>>(a, b);
  const F32<W> cd_low = shuffle<W, InterleaveOnes<W, 0>>(c, d), cd_high = shuffle<W, InterleaveOnes<W, 1>>(c, d);
  // Rows 0, 4, 8, ..., then 1, 5, ..., and so on: one in each lane of four.
  const F32<W> rows[4] = {shuffle<W, InterleaveTwos<W, 0>>(ab_low, cd_low),
                          shuffle<W, InterleaveTwos<W, 1>>(ab_low, cd_low),
                          shuffle<W, InterleaveTwos<W, 0>>(ab_high, cd_high),
                          shuffle<W, InterleaveTwos<W, 1>>(ab_high, cd_high)};
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
#pragma GCC unroll 4
    for (int lane = 0; lane < W / 4; ++lane) {
      F32<4> row;
      memcpy(&row, reinterpret_cast<const char*>(&rows[i]) + 16 * lane, sizeof row);
      store<4>(to + (4 * lane + i) * row_stride, row);
    }
}

// Memory that a thread keeps between calls, so that a call of a millisecond need not fault its pages in again.
// One buffer per thread and Slot; what it holds is undefined. Null where there is no memory.
struct Scratch {
  float* floats = nullptr;
  size_t capacity = 0;
  ~Scratch() { free(floats); }
};

constexpr size_t kScratchAlignment = 64;

template <int Slot>
inline float* scratch(int64_t count) {
  static thread_local Scratch kept;
  if (size_t(count) > kept.capacity || kept.floats == nullptr) {
    free(kept.floats);
    // Some room beyond, for reads past the end of a tile that are thrown away and for the next, larger layer.
    const size_t capacity = size_t(round_up(count + count / 8 + 64, 64));
    void* memory = nullptr;
    if (posix_memalign(&memory, kScratchAlignment, capacity * sizeof(float)) != 0) memory = nullptr;
    kept.floats = static_cast<float*>(memory);
    kept.capacity = memory == nullptr ? 0 : capacity;
  }
  return kept.floats;
}

}  // namespace DSPARSE_ISA
}  // namespace dsparse
