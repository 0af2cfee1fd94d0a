// Random layers through the kernels' C interface, against plain loops; built with sanitizers by test_cpu_sanitized.py.
//
// Every buffer is an allocation of its own of exactly its size, so that a read or write one element beyond it is found.
// Usage: driver <number of layers> <seed>. Exits with 1 and says what differs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "abi.h"

extern "C" {
const char* dsparse_isa_name(int32_t isa);
int32_t dsparse_isa_runs_here(int32_t isa);
int32_t dsparse_forward(const dsparse::Call* call);
int32_t dsparse_input_gradient(const dsparse::Call* call);
int32_t dsparse_weight_gradient(const dsparse::Call* call);
}

namespace {

std::mt19937 generator;

int pick(int from, int to) { return std::uniform_int_distribution<int>(from, to)(generator); }

float to_float(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// A matrix as the kernels take it: float, or bfloat16 cut off from floats.
struct Matrix {
  bool half;
  std::vector<float> floats;
  std::vector<uint16_t> halves;

  Matrix(bool half, int64_t count, bool random) : half(half) {
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count; ++i) {
      const float value = random ? normal(generator) : NAN;
      uint32_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      if (half)
        halves.push_back(uint16_t(bits >> 16));
      else
        floats.push_back(value);
    }
    floats.shrink_to_fit();
    halves.shrink_to_fit();
  }
  void* data() { return half ? static_cast<void*>(halves.data()) : static_cast<void*>(floats.data()); }
  double at(int64_t i) const { return half ? to_float(halves[size_t(i)]) : floats[size_t(i)]; }
};

struct Layer {
  int block, rows, cols, tokens;
  std::vector<int32_t> row_of, col_of, row_offsets, row_slots, col_offsets, col_slots;

  static std::vector<int32_t> offsets(const std::vector<int32_t>& line_of, int lines) {
    std::vector<int32_t> found(size_t(lines) + 1, 0);
    for (int32_t line : line_of) ++found[size_t(line) + 1];
    std::partial_sum(found.begin(), found.end(), found.begin());
    return found;
  }

  static std::vector<int32_t> order(const std::vector<int32_t>& first, const std::vector<int32_t>& second) {
    std::vector<int32_t> slots(first.size());
    std::iota(slots.begin(), slots.end(), 0);
    std::sort(slots.begin(), slots.end(), [&](int32_t a, int32_t b) {
      return std::make_pair(first[size_t(a)], second[size_t(a)]) < std::make_pair(first[size_t(b)], second[size_t(b)]);
    });
    return slots;
  }

  Layer() {
    const int blocks[] = {1, 2, 3, 4, 5, 8, 12, 16, 24, 32, 64, 128};
    block = pick(0, 3) == 0 ? pick(1, 40) : blocks[pick(0, 11)];
    const int most = std::max(1, 200 / block);
    rows = pick(1, std::min(most, 40));
    cols = pick(1, std::min(most, 40));
    const int counts[] = {0, 1, 5, 6, 12, 24, 47, 96, 193, pick(0, 260)};
    // Now and then enough for weight gradients to be cut into spans.
    tokens = pick(0, 19) == 0 ? pick(1024, 2100) : counts[pick(0, 9)];
    const int percent = pick(0, 4) == 0 ? pick(0, 1) * 100 : pick(1, 60);
    std::vector<std::pair<int32_t, int32_t>> active;
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < cols; ++c)
        if (pick(1, 100) <= percent) active.emplace_back(r, c);
    std::shuffle(active.begin(), active.end(), generator);
    for (auto [r, c] : active) {
      row_of.push_back(r);
      col_of.push_back(c);
    }
    row_offsets = offsets(row_of, rows);
    col_offsets = offsets(col_of, cols);
    row_slots = order(row_of, col_of);
    col_slots = order(col_of, row_of);
  }
};

int check(const char* what, const Layer& layer, const char* isa, const Matrix& found, const std::vector<double>& sums,
          const std::vector<double>& magnitudes) {
  for (size_t i = 0; i < sums.size(); ++i) {
    // Sums of a few hundred products in float, and one rounding to bfloat16.
    const double allowed = 1e-6 + 3e-5 * magnitudes[i] + (found.half ? std::fabs(sums[i]) / 250 : 0);
    if (!(std::fabs(found.at(int64_t(i)) - sums[i]) <= allowed)) {
      std::printf("%s of %s, block %d, grid %d x %d, %d tokens, bfloat16 %d: [%zu] is %g, not %g\n", what, isa,
                  layer.block, layer.rows, layer.cols, layer.tokens, found.half, i, found.at(int64_t(i)), sums[i]);
      return 1;
    }
  }
  return 0;
}

// sums[target] += a · b with magnitudes beside.
struct Sums {
  std::vector<double> values, magnitudes;
  explicit Sums(int64_t count) : values(size_t(count), 0.0), magnitudes(size_t(count), 0.0) {}
  void add(int64_t at, double product) {
    values[size_t(at)] += product;
    magnitudes[size_t(at)] += std::fabs(product);
  }
};

int run(int isa) {
  Layer layer;
  const bool half = pick(0, 2) == 0, with_bias = pick(0, 1) == 1, with_gelu = pick(0, 2) == 0;
  const int64_t b = layer.block, T = layer.tokens, O = layer.rows * b, I = layer.cols * b;
  const int64_t S = int64_t(layer.row_of.size());
  Matrix x(half, T * I, true), dy(half, T * O, true), values(half, S * b * b, true), bias(half, O, true);
  Matrix y(half, T * O, false), pre(half, T * O, false), dx(half, T * I, false), dvalues(half, S * b * b, false);
  Matrix dbias(half, O, false);
  dsparse::Call call = {};
  call.x = x.data();
  call.dy = dy.data();
  call.values = values.data();
  call.bias = with_bias ? bias.data() : nullptr;
  call.y = y.data();
  // Without tokens there may be no address to tell the two cases apart by.
  call.pre = with_gelu ? pre.data() : nullptr;
  call.dx = dx.data();
  call.dvalues = dvalues.data();
  call.dbias = dbias.data();
  call.rows = layer.row_of.data();
  call.cols = layer.col_of.data();
  call.row_offsets = layer.row_offsets.data();
  call.row_slots = layer.row_slots.data();
  call.col_offsets = layer.col_offsets.data();
  call.col_slots = layer.col_slots.data();
  call.num_tokens = T;
  call.num_out = O;
  call.num_in = I;
  call.num_slots = S;
  call.block = layer.block;
  call.dtype = half ? dsparse::kBfloat16 : dsparse::kFloat32;
  call.num_threads = pick(1, 3);
  call.isa = isa;
  const char* name = dsparse_isa_name(isa);
  if (dsparse_forward(&call) != 0 || dsparse_input_gradient(&call) != 0 || dsparse_weight_gradient(&call) != 0) {
    std::printf("%s returned an error\n", name);
    return 1;
  }
  Sums true_y(T * O), true_dx(T * I), true_dvalues(S * b * b), true_dbias(O);
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t o = 0; o < O; ++o) {
      if (with_bias) true_y.add(t * O + o, bias.at(o));
      true_dbias.add(o, dy.at(t * O + o));
    }
    for (int64_t s = 0; s < S; ++s)
      for (int64_t i = 0; i < b; ++i)
        for (int64_t j = 0; j < b; ++j) {
          const int64_t to = t * O + layer.row_of[size_t(s)] * b + i, from = t * I + layer.col_of[size_t(s)] * b + j;
          const int64_t at = s * b * b + i * b + j;
          true_y.add(to, x.at(from) * values.at(at));
          true_dx.add(from, dy.at(to) * values.at(at));
          true_dvalues.add(at, dy.at(to) * x.at(from));
        }
  }
  int bad = 0;
  if (with_gelu) {
    bad += check("what the GELU is taken of", layer, name, pre, true_y.values, true_y.magnitudes);
    for (double& value : true_y.values) value = 0.5 * value * std::erfc(-value / std::sqrt(2.0));
  }
  bad += check("y", layer, name, y, true_y.values, true_y.magnitudes);
  bad += check("dx", layer, name, dx, true_dx.values, true_dx.magnitudes);
  bad += check("dvalues", layer, name, dvalues, true_dvalues.values, true_dvalues.magnitudes);
  bad += check("dbias", layer, name, dbias, true_dbias.values, true_dbias.magnitudes);
  return bad;
}

}  // namespace

int main(int, char** argv) {
  const int num_layers = std::atoi(argv[1]);
  generator.seed(unsigned(std::atoi(argv[2])));
  int bad = 0;
  for (int isa = 0; dsparse_isa_name(isa) != nullptr; ++isa) {
    if (dsparse_isa_runs_here(isa) == 0) continue;
    for (int layer = 0; layer < num_layers && bad == 0; ++layer) bad += run(isa);
    std::printf("%s: %s\n", dsparse_isa_name(isa), bad == 0 ? "right" : "wrong");
  }
  return bad == 0 ? 0 : 1;
}
