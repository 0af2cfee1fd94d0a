// Products of blocks too small to fill a vector: the vectors run over tokens.
//
// A tile of 24 to 64 tokens is packed transposed, features by tokens, so that a weight is multiplied with whole vectors
// whatever the block, down to 1×1. What is then left to fight is memory:
//
// - A 1×1 block's only operand is a vector from memory for each FMA. L1 gives two a cycle, L2 less than one. So source
//   features are taken in chunks that fit L1, packed just before they are used and never written beyond it, and every
//   output row passes by once per chunk (tokens_order.h).
// - Values are stored by slot, and slots are in no order. Each call copies them into the order of use, which costs
//   little: every value is used once per tile, T / 64 times or more.
// - Sums are kept in registers over the entries of a row in a chunk: 8 vectors of tokens × 1 row for 1×1, 3 × 4 for 4×4.
//
// The weight gradient packs both sides and takes dot products along tokens, eight weights at a time; eight sums of lanes
// are then taken together by a transpose that adds. Matrices are asked for from memory while blocks are multiplied.
//
// Every sum has one order: chunks, and in them blocks by column, for products; shares of tokens, and in them tiles, for
// the weight gradient. Neither depends on the number of threads.
#pragma once

#include "tokens_gradient.h"
#include "tokens_product.h"

namespace dsparse {
namespace DSPARSE_ISA {

template <class Element>
Status tokens_forward(const Call& call) {
  const tokens::Product<Element> product = {
      static_cast<const Element*>(call.x), static_cast<const Element*>(call.values),
      static_cast<const Element*>(call.bias), static_cast<Element*>(call.y), static_cast<Element*>(call.pre), true};
  return tokens::product_by_block(call, product, tokens::by_rows(call));
}

template <class Element>
Status tokens_input_gradient(const Call& call) {
  const tokens::Product<Element> product = {
      static_cast<const Element*>(call.dy), static_cast<const Element*>(call.values), nullptr,
      static_cast<Element*>(call.dx), nullptr, false};
  return tokens::product_by_block(call, product, tokens::by_cols(call));
}

template <class Element>
Status tokens_weight_gradient(const Call& call) {
  return tokens::gradient_by_block<Element>(call);
}

}  // namespace DSPARSE_ISA
}  // namespace dsparse
