// What Python calls: checks of the index, then the kernels of the instruction set asked for.
//
// Compiled for the least machine, unlike kernels.cpp, and with DSPARSE_WITH_<ISA> for every instruction set that is
// linked in.
#include "abi.h"

#define DSPARSE_KERNELS(isa)                \
  namespace dsparse {                       \
  namespace isa {                           \
  Status forward(const Call& call);         \
  Status input_gradient(const Call& call);  \
  Status weight_gradient(const Call& call); \
  }                                         \
  }

DSPARSE_KERNELS(portable)
DSPARSE_KERNELS(avx2)
DSPARSE_KERNELS(avx512)
DSPARSE_KERNELS(avx512_lowered)

namespace dsparse {
namespace {

typedef Status (*Kernel)(const Call&);

struct Isa {
  const char* name;
  bool (*runs_here)();
  Kernel forward, input_gradient, weight_gradient;
};

[[maybe_unused]] bool always() { return true; }

#if defined(__x86_64__)
[[maybe_unused]] bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
[[maybe_unused]] bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#endif

// In the order in which they are preferred.
const Isa kIsas[] = {
#ifdef DSPARSE_WITH_AVX512
    {"avx512", has_avx512, avx512::forward, avx512::input_gradient, avx512::weight_gradient},
#endif
#ifdef DSPARSE_WITH_AVX2
    {"avx2", has_avx2, avx2::forward, avx2::input_gradient, avx2::weight_gradient},
#endif
#ifdef DSPARSE_WITH_PORTABLE
    {"portable", always, portable::forward, portable::input_gradient, portable::weight_gradient},
#endif
#ifdef DSPARSE_WITH_AVX512_LOWERED
    {"avx512_lowered", has_avx2, avx512_lowered::forward, avx512_lowered::input_gradient,
     avx512_lowered::weight_gradient},
#endif
};
constexpr int kNumIsas = sizeof kIsas / sizeof kIsas[0];

// Offsets ascend from 0 to S, and every slot stands once under its own line.
bool fits(const int32_t* offsets, int64_t num_lines, const int32_t* slots, const int32_t* line_of_slot,
          int64_t num_slots) {
  if (offsets[0] != 0 || offsets[num_lines] != num_slots) return false;
  for (int64_t line = 0; line < num_lines; ++line) {
    if (offsets[line + 1] < offsets[line] || offsets[line + 1] > num_slots) return false;
    for (int64_t e = offsets[line]; e < offsets[line + 1]; ++e)
      if (slots[e] < 0 || slots[e] >= num_slots || line_of_slot[slots[e]] != line) return false;
  }
  return true;
}

Status run(const Call& call, Kernel Isa::*kernel) {
  if (call.isa < 0 || call.isa >= kNumIsas) return kBadIsa;
  if ((call.dtype != kFloat32 && call.dtype != kBfloat16) || call.block < 1 ||
      call.block > kLargestBlock)
    return kUnsupported;
  // A pass over 4 S integers, next to S · b² · T multiplications.
  if (!fits(call.row_offsets, call.num_out / call.block, call.row_slots, call.rows, call.num_slots) ||
      !fits(call.col_offsets, call.num_in / call.block, call.col_slots, call.cols, call.num_slots))
    return kBadIndex;
  return (kIsas[call.isa].*kernel)(call);
}

}  // namespace
}  // namespace dsparse

#define DSPARSE_EXPORT __attribute__((visibility("default")))

extern "C" {

// Call::isa is a position in this list, which ends with null. The instruction sets that the library has.
DSPARSE_EXPORT const char* dsparse_isa_name(int32_t isa) {
  return isa >= 0 && isa < dsparse::kNumIsas ? dsparse::kIsas[isa].name : nullptr;
}

// Whether this machine can run it.
DSPARSE_EXPORT int32_t dsparse_isa_runs_here(int32_t isa) {
  return isa >= 0 && isa < dsparse::kNumIsas && dsparse::kIsas[isa].runs_here() ? 1 : 0;
}

DSPARSE_EXPORT int32_t dsparse_forward(const dsparse::Call* call) {
  return dsparse::run(*call, &dsparse::Isa::forward);
}

DSPARSE_EXPORT int32_t dsparse_input_gradient(const dsparse::Call* call) {
  return dsparse::run(*call, &dsparse::Isa::input_gradient);
}

DSPARSE_EXPORT int32_t dsparse_weight_gradient(const dsparse::Call* call) {
  return dsparse::run(*call, &dsparse::Isa::weight_gradient);
}
}
