// The kernels of one instruction set (see simd.h), chosen by block side and element type.
#include "abi.h"
#include "product.h"
#include "simd.h"
#include "weight_gradient.h"

namespace dsparse {
namespace DSPARSE_ISA {

// tokens.cpp.
template <class Element>
Status tokens_forward(const Call& call);
template <class Element>
Status tokens_input_gradient(const Call& call);
template <class Element>
Status tokens_weight_gradient(const Call& call);

template <class Element>
static blocks::Product<Element> forward_product(const Call& call) {
  blocks::Product<Element> product = {};
  product.inputs = static_cast<const Element*>(call.x);
  product.values = static_cast<const Element*>(call.values);
  product.bias = static_cast<const Element*>(call.bias);
  product.outputs = static_cast<Element*>(call.y);
  product.before_gelu = static_cast<Element*>(call.pre);
  product.offsets = call.row_offsets;
  product.slots = call.row_slots;
  product.sources = call.cols;
  product.source_offsets = call.col_offsets;
  product.num_inputs = call.num_in;
  product.num_outputs = call.num_out;
  product.num_tokens = call.num_tokens;
  product.num_slots = call.num_slots;
  product.block = call.block;
  product.num_threads = call.num_threads;
  product.transposed = true;
  return product;
}

template <class Element>
static blocks::Product<Element> input_gradient_product(const Call& call) {
  blocks::Product<Element> product = forward_product<Element>(call);
  product.inputs = static_cast<const Element*>(call.dy);
  product.bias = nullptr;
  product.outputs = static_cast<Element*>(call.dx);
  product.before_gelu = nullptr;
  product.offsets = call.col_offsets;
  product.slots = call.col_slots;
  product.sources = call.rows;
  product.source_offsets = call.row_offsets;
  product.num_inputs = call.num_out;
  product.num_outputs = call.num_in;
  product.transposed = false;
  return product;
}

template <class Element>
static Status forward_in(const Call& call) {
  if (call.block <= kLargestTokensBlock) return tokens_forward<Element>(call);
  return blocks::run_product(forward_product<Element>(call));
}

template <class Element>
static Status input_gradient_in(const Call& call) {
  if (call.block <= kLargestTokensBlock) return tokens_input_gradient<Element>(call);
  return blocks::run_product(input_gradient_product<Element>(call));
}

template <class Element>
static Status weight_gradient_of(const Call& call) {
  if (call.block <= kLargestTokensBlock) return tokens_weight_gradient<Element>(call);
  return blocks::run_weight_gradient<Element>(call);
}

Status forward(const Call& call) {
  return call.dtype == kFloat32 ? forward_in<float>(call) : forward_in<Bf16>(call);
}

Status input_gradient(const Call& call) {
  return call.dtype == kFloat32 ? input_gradient_in<float>(call) : input_gradient_in<Bf16>(call);
}

Status weight_gradient(const Call& call) {
  return call.dtype == kFloat32 ? weight_gradient_of<float>(call) : weight_gradient_of<Bf16>(call);
}

}  // namespace DSPARSE_ISA
}  // namespace dsparse
