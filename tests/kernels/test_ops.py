"""The ops as torch sees them: derivatives of any order, FLOP counters, profilers, checkpointing, autocast, strides."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from dsparse.errors import UserError
from dsparse.kernels.index import BlockIndex
from dsparse.kernels.ops import (
    block_linear,
    block_linear_gelu,
    block_linear_input_grad,
    block_linear_weight_grad,
)
from dsparse.layout.packed import pack
from tests.kernels.products import Product, dense_linear, product_of, small_product
from tests.pattern.reference import pattern_of

KERNEL = "reference"
WANTS = [(True, True, True), (True, False, False), (False, True, False), (False, False, True)]


def linear(product: Product, *, bias: bool = True) -> Tensor:
    return block_linear(product.x, product.values, product.bias if bias else None, product.index, KERNEL)


def tiny_product() -> Product:
    """For differences, which try every number: an empty row, a column of two blocks, one of none."""
    return product_of(pattern_of([7, 1], (6, 6), 2), tokens=2, dtype=torch.float64)


def gradients(product: Product, y: Tensor, *, bias: bool = True) -> tuple[Tensor, ...]:
    inputs = (product.x, product.values, product.bias)[: 3 if bias else 2]
    return torch.autograd.grad(y, inputs, product.dy)


@pytest.mark.parametrize(("bias", "tokens"), [(True, 5), (False, 1), (True, 0)])
def test_opcheck(bias: bool, tokens: int) -> None:
    p = small_product(tokens=tokens).wants_grad()
    b = p.bias if bias else None
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (block_linear, (p.x, p.values, b, list(p.index), KERNEL)),
        (block_linear_gelu, (p.x, p.values, b, list(p.index), KERNEL)),
        (block_linear_input_grad, (p.dy.requires_grad_(), p.values, list(p.index), KERNEL)),
        (block_linear_weight_grad, (p.dy, p.x, list(p.index), bias, KERNEL)),
    ]
    for op, arguments in calls:
        torch.library.opcheck(op, arguments)


@pytest.mark.parametrize("tokens", [0, 1, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_dense(bias: bool, tokens: int) -> None:
    """float64, so the order of additions is all that differs."""
    p = small_product(tokens=tokens, dtype=torch.float64).wants_grad()
    y, expected = linear(p, bias=bias), dense_linear(p, bias=bias)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    for got, dense in zip(gradients(p, y, bias=bias), gradients(p, expected, bias=bias), strict=True):
        torch.testing.assert_close(got, dense, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        block_linear_weight_grad(p.dy, p.x, p.index, bias, KERNEL)[0],
        pack(p.dy.mT @ p.x, p.pattern),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize(("bias", "wants"), [*((True, wants) for wants in WANTS), (False, WANTS[0]), (False, WANTS[2])])
def test_derivatives(bias: bool, wants: tuple[bool, bool, bool]) -> None:
    """First and second, by differences."""
    p = tiny_product().wants_grad(x=wants[0], values=wants[1], bias=wants[2])
    given = (p.x, p.values, p.bias if bias else None)
    for op in (block_linear, block_linear_gelu):

        def function(x: Tensor, values: Tensor, one_bias: Tensor | None, op: Callable[..., Any] = op) -> Any:
            return op(x, values, one_bias, p.index, KERNEL)

        assert torch.autograd.gradcheck(function, given)
        if op is block_linear_gelu or any(wants[:2]):  # else the gradient is constant
            assert torch.autograd.gradgradcheck(function, given)


def test_derivatives_of_derivatives() -> None:
    p = tiny_product().wants_grad()
    dy = p.dy.requires_grad_()
    for function, given in (
        (lambda dy, values: block_linear_input_grad(dy, values, p.index, KERNEL), (dy, p.values)),
        (lambda dy, x: block_linear_weight_grad(dy, x, p.index, True, KERNEL), (dy, p.x)),
        (lambda dy, x: block_linear_weight_grad(dy, x, p.index, False, KERNEL)[0], (dy, p.x)),
    ):
        assert torch.autograd.gradcheck(function, given)
        assert torch.autograd.gradgradcheck(function, given)


def test_gelu_is_gelu_of_linear() -> None:
    p = small_product().wants_grad()
    gelu, y = block_linear_gelu(p.x, p.values, p.bias, p.index, KERNEL)
    assert torch.equal(y, linear(p))
    assert torch.equal(gelu, F.gelu(y))
    for got, expected in zip(gradients(p, gelu), gradients(p, F.gelu(linear(p))), strict=True):
        assert torch.equal(got, expected)
    gelu, y = block_linear_gelu(p.x, p.values, p.bias, p.index, KERNEL)
    expected_y = linear(p)
    for got, expected in zip(gradients(p, gelu * y), gradients(p, F.gelu(expected_y) * expected_y), strict=True):
        torch.testing.assert_close(got, expected)


def test_only_wanted_gradients_are_computed() -> None:
    def seen(**wants: bool) -> set[str]:
        p = small_product().wants_grad(**wants)
        with FlopCounterMode(display=False) as counter:
            linear(p).backward(p.dy)
        return {str(op) for op in counter.get_flop_counts()["Global"]}

    forward = {"dsparse.block_linear"}
    assert seen(x=False, values=False) == forward
    assert seen(values=False) == {*forward, "dsparse.block_linear_input_grad"}
    assert seen(x=False) == {*forward, "dsparse.block_linear_weight_grad"}


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("gelu", [False, True])
def test_flops(block: int, gelu: bool) -> None:
    p = small_product(block=block, tokens=7).wants_grad()
    num_slots = p.pattern.num_active
    with FlopCounterMode(display=False) as counter:
        if gelu:
            block_linear_gelu(p.x, p.values, p.bias, p.index, KERNEL)[0].backward(p.dy)
        else:
            linear(p).backward(p.dy)
    assert counter.get_total_flops() == 3 * 2 * 7 * num_slots * block**2


def test_profiler_names() -> None:
    p = small_product().wants_grad()
    with warnings.catch_warnings(), profile(activities=[ProfilerActivity.CPU], acc_events=True) as prof:
        linear(p).backward(p.dy)
        block_linear_gelu(p.x, p.values, p.bias, p.index, KERNEL)
    names = {event.key for event in prof.key_averages()}
    for op in ("block_linear", "block_linear_gelu", "block_linear_input_grad", "block_linear_weight_grad"):
        assert f"dsparse::{op}" in names


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing(use_reentrant: bool) -> None:
    p = small_product().wants_grad()
    plain = gradients(p, torch.tanh(linear(p)))
    torch.tanh(checkpoint(lambda *given: block_linear(*given, p.index, KERNEL), p.x, p.values, p.bias,
                          use_reentrant=use_reentrant)).backward(p.dy)  # fmt: skip
    for tensor, expected in zip((p.x, p.values, p.bias), plain, strict=True):
        assert tensor.grad is not None and torch.equal(tensor.grad, expected)


def strided(tensor: Tensor, how: str) -> Tensor:
    """The same values in another layout."""
    if how == "transposed":
        return tensor.mT.contiguous().mT
    if how == "every other":
        return torch.stack([tensor, tensor + 1], dim=-1)[..., 0]
    return tensor[:1].expand_as(tensor)


@pytest.mark.parametrize("how", ["transposed", "every other", "expanded"])
def test_any_strides(how: str) -> None:
    p = small_product()
    x, values, dy = (strided(tensor, how) for tensor in (p.x, p.values, p.dy))
    bias = strided(p.bias, "expanded" if how == "expanded" else "every other")
    assert not any(tensor.is_contiguous() for tensor in (x, values, bias, dy))
    same = tuple(tensor.contiguous() for tensor in (x, values, bias))
    one = [tensor.detach().requires_grad_() for tensor in (x, values, bias)]
    other = [tensor.detach().requires_grad_() for tensor in same]
    for op in (block_linear, lambda *given: block_linear_gelu(*given)[0]):
        y, expected = op(*one, p.index, KERNEL), op(*other, p.index, KERNEL)
        assert torch.equal(y, expected)
        for got, grad in zip(
            torch.autograd.grad(y, one, dy), torch.autograd.grad(expected, other, dy.contiguous()), strict=True
        ):
            assert torch.equal(got, grad)


def test_a_sum_has_an_expanded_gradient() -> None:
    p = small_product(dtype=torch.float64).wants_grad()
    linear(p).sum().backward()
    dense = small_product(dtype=torch.float64).wants_grad()
    dense_linear(dense).sum().backward()
    for name in ("x", "values", "bias"):
        torch.testing.assert_close(getattr(p, name).grad, getattr(dense, name).grad, rtol=0, atol=1e-12)


def test_autocast_ends_at_an_op() -> None:
    """Given fp32, fp32 comes out, the same bits as without; what casts is the layer."""
    p = small_product().wants_grad()
    expected = linear(p)
    with torch.autocast("cpu", torch.bfloat16):
        y = linear(p)
        dx, dvalues, dbias = gradients(p, y)
    assert torch.equal(y, expected)
    for got, grad in zip((dx, dvalues, dbias), gradients(p, expected), strict=True):
        assert torch.equal(got, grad)


def test_inputs_changed_between_forward_and_backward_are_noticed() -> None:
    """The index too: a pattern set in between would give the gradient of another weight."""
    p = small_product().wants_grad()
    y = linear(p)
    p.index.cols_S.copy_(p.index.cols_S.flip(0))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(p.dy)


def test_meta() -> None:
    p = product_of(pattern_of([3, 0, 4], (6, 8), 2), tokens=5)
    x, values, bias, dy = (tensor.to("meta") for tensor in (p.x, p.values, p.bias, p.dy))
    index = BlockIndex(*(tensor.to("meta") for tensor in p.index))
    assert block_linear(x, values, bias, index, KERNEL).shape == (5, 6)
    assert [tensor.shape for tensor in block_linear_gelu(x, values, bias, index, KERNEL)] == [(5, 6), (5, 6)]
    assert block_linear_input_grad(dy, values, index, KERNEL).shape == (5, 8)
    shapes = [tensor.shape for tensor in block_linear_weight_grad(dy, x, index, True, KERNEL)]
    assert shapes == [(3, 2, 2), (6,)]


def test_unknown_kernel() -> None:
    p = small_product()
    with pytest.raises(
        UserError, match=r"Expected a kernel out of 'auto', 'reference', 'cpu', 'triton'\. Got 'fast'\."
    ):
        block_linear(p.x, p.values, None, p.index, "fast")
