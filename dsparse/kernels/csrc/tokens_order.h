// The order in which the tokens path walks a pattern's blocks, made anew in each call.
//
// A product sums, for each target line (a block row in the forward pass, a block column for the input gradient), over
// the source lines at which it has blocks. Sources are taken in chunks whose part of a token tile fits L1, targets in
// groups whose sums fit L2. A band is what a group has in a chunk; a span what a line has in a band. Within its band
// spans are sorted by length, so that the branch at a span's end, met every few dozen cycles, is always foreseen.
// Entries are the blocks, band after band and span after span: what the hot loops read lies in the order of reading.
#pragma once

#include "abi.h"
#include "simd.h"

namespace dsparse {
namespace DSPARSE_ISA {
namespace tokens {

// The blocks of each target line, in order of their sources.
struct Lines {
  const int32_t* offsets;
  const int32_t* slots;
  const int32_t* sources;  // by slot
  int64_t num_targets;
  int64_t num_sources;
};

inline Lines by_rows(const Call& call) {
  return {call.row_offsets, call.row_slots, call.cols, call.num_out / call.block, call.num_in / call.block};
}

inline Lines by_cols(const Call& call) {
  return {call.col_offsets, call.col_slots, call.rows, call.num_in / call.block, call.num_out / call.block};
}

struct Span {
  int32_t target;  // line
  int32_t begin;   // its first entry
  int32_t count;
};

// How lines are cut. Sums must not depend on the number of threads: `chunk` may not, `group` may.
struct Cut {
  int64_t chunk;  // source lines per chunk
  int64_t group;  // target lines per group
};

// Chunks of equal size, as few as there can be of at most `most` lines.
inline int64_t even_share(int64_t num_lines, int64_t most) {
  return larger<int64_t>(1, ceil_div(num_lines, ceil_div(larger<int64_t>(num_lines, 1), larger<int64_t>(most, 1))));
}

struct Order {
  Lines lines;
  int64_t block;
  Cut cut;
  int64_t num_chunks;
  int64_t num_groups;
  int32_t* cursors;    // [targets, chunks], scratch
  Span* spans;         // band (g, c): from (g * cut.group * num_chunks + c * lines in g) on
  int32_t* num_spans;  // [groups, chunks]; spans without entries are left out
  int32_t* slots;      // [S], of each entry
  int32_t* offsets;    // [S], where an entry's source begins in its chunk's packed tile

  int64_t first_target(int64_t group) const { return group * cut.group; }
  int64_t num_targets(int64_t group) const { return smaller(cut.group, lines.num_targets - first_target(group)); }
  int64_t first_source(int64_t chunk) const { return chunk * cut.chunk; }
  int64_t num_sources(int64_t chunk) const { return smaller(cut.chunk, lines.num_sources - first_source(chunk)); }
  const Span* band(int64_t group, int64_t chunk) const {
    return spans + first_target(group) * num_chunks + chunk * num_targets(group);
  }
  const Span* band(int64_t number) const { return band(number / num_chunks, number % num_chunks); }
  int32_t band_length(int64_t group, int64_t chunk) const { return num_spans[group * num_chunks + chunk]; }
};

// An order's memory, from the calling thread's scratch; false where there is none. Then fill_order, in a parallel region.
template <int FirstSlot>
inline bool make_order(const Lines& lines, const Cut& cut, const Call& call, Order* order) {
  const int64_t num_slots = call.num_slots;
  order->block = call.block;
  order->lines = lines;
  order->cut = cut;
  order->num_chunks = ceil_div(lines.num_sources, cut.chunk);
  order->num_groups = ceil_div(lines.num_targets, cut.group);
  const int64_t num_pieces = lines.num_targets * order->num_chunks;
  const int64_t num_bands = order->num_groups * order->num_chunks;
  order->cursors = reinterpret_cast<int32_t*>(scratch<FirstSlot>(num_pieces));
  order->spans = reinterpret_cast<Span*>(scratch<FirstSlot + 1>(num_pieces * 3));
  order->num_spans = reinterpret_cast<int32_t*>(scratch<FirstSlot + 2>(num_bands));
  order->slots = reinterpret_cast<int32_t*>(scratch<FirstSlot + 3>(num_slots));
  order->offsets = reinterpret_cast<int32_t*>(scratch<FirstSlot + 4>(num_slots));
  return order->cursors && order->spans && order->num_spans && order->slots && order->offsets;
}

// Sorts the spans of a group, chunk after chunk, and turns its cursors from counts to first entries.
inline void sort_spans(const Order& order, int64_t group) {
  constexpr int kBuckets = 64;  // longer spans need no order: their ends are rare
  const int64_t first = order.first_target(group), last = first + order.num_targets(group);
  int32_t entry = order.lines.offsets[first];
  for (int64_t chunk = 0; chunk < order.num_chunks; ++chunk) {
    int32_t places[kBuckets + 1] = {};
    for (int64_t line = first; line < last; ++line)
      ++places[kBuckets - smaller(order.cursors[line * order.num_chunks + chunk], kBuckets)];
    int32_t sum = 0;
    for (int bucket = 0; bucket <= kBuckets; ++bucket) {
      const int32_t length = places[bucket];
      places[bucket] = sum;
      sum += length;
    }
    order.num_spans[group * order.num_chunks + chunk] = places[kBuckets];  // those of count 0 come last
    Span* spans = const_cast<Span*>(order.band(group, chunk));
    for (int64_t line = first; line < last; ++line) {
      const int32_t count = order.cursors[line * order.num_chunks + chunk];
      spans[places[kBuckets - smaller(count, kBuckets)]++] = {int32_t(line), 0, count};
    }
    for (int64_t i = 0; i < last - first; ++i) {
      spans[i].begin = entry;
      order.cursors[int64_t(spans[i].target) * order.num_chunks + chunk] = entry;
      entry += spans[i].count;
    }
  }
}

// Every thread of a parallel region calls it. `line_floats` is the size of a source line in a packed tile;
// place(entry, slot) is told where each slot goes.
template <class Place>
inline void fill_order(const Order& order, int64_t line_floats, Place place) {
  const Lines& lines = order.lines;
#pragma omp for
  for (int64_t line = 0; line < lines.num_targets; ++line) {
    int32_t* counts = order.cursors + line * order.num_chunks;
    int32_t at = lines.offsets[line];
    for (int64_t chunk = 0; chunk < order.num_chunks; ++chunk) {
      const int32_t begin = at;
      const int64_t end = order.first_source(chunk + 1);
      while (at < lines.offsets[line + 1] && lines.sources[lines.slots[at]] < end) ++at;
      counts[chunk] = at - begin;
    }
  }
#pragma omp for
  for (int64_t group = 0; group < order.num_groups; ++group) sort_spans(order, group);
#pragma omp for
  for (int64_t line = 0; line < lines.num_targets; ++line) {
    int32_t at = lines.offsets[line];
    for (int64_t chunk = 0; chunk < order.num_chunks; ++chunk) {
      int32_t entry = order.cursors[line * order.num_chunks + chunk];
      const int64_t begin = order.first_source(chunk), end = order.first_source(chunk + 1);
      for (; at < lines.offsets[line + 1]; ++at, ++entry) {
        const int32_t slot = lines.slots[at], source = lines.sources[slot];
        if (source >= end) break;
        order.slots[entry] = slot;
        order.offsets[entry] = int32_t((source - begin) * line_floats);
        place(entry, slot);
      }
    }
  }
}

}  // namespace tokens
}  // namespace DSPARSE_ISA
}  // namespace dsparse
