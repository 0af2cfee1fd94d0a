"""torch.compile: one graph, the same bits, any number of tokens, and patterns that change under compiled code."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from dsparse.kernels.ops import block_linear, block_linear_gelu
from dsparse.layout.packed import PackedLinear
from dsparse.pattern.block_pattern import BlockPattern
from tests.kernels.products import small_product

SHAPE = (8, 12)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def pattern(seed: int = 0) -> BlockPattern:
    return BlockPattern.random(SHAPE, block=4, density=0.5, seed=seed)


def packed_layer() -> PackedLinear:
    torch.manual_seed(0)
    return PackedLinear.from_linear(nn.Linear(SHAPE[1], SHAPE[0]), pattern(), kernel="reference")


def results(layer: nn.Module, module: PackedLinear, x: Tensor) -> list[Tensor]:
    """Output, input gradient, and the parameters' gradients."""
    x = x.clone().requires_grad_()
    y = layer(x)
    assert module.bias is not None
    return [y, *torch.autograd.grad(y.square().sum(), (x, module.weight, module.bias))]


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(map(torch.equal, some, others))


def test_ops() -> None:
    p = small_product().wants_grad()

    def function(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        gelu, y = block_linear_gelu(x, values, bias, p.index, "reference")
        return gelu + torch.tanh(y) * block_linear(x, values, None, p.index, "reference")

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    given = (p.x, p.values, p.bias)
    y, expected = compiled(*given), function(*given)
    assert torch.equal(y, expected)
    for got, gradient in zip(
        torch.autograd.grad(y, given, p.dy), torch.autograd.grad(expected, given, p.dy), strict=True
    ):
        assert torch.equal(got, gradient)


def test_any_number_of_tokens() -> None:
    layer = packed_layer()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter, dynamic=True)
    for num in (5, 2, 17, 64):
        x = torch.randn(3, num, SHAPE[1])
        assert same(results(compiled, layer, x), results(layer, layer, x))
    assert counter.frame_count == 1


def test_another_pattern_needs_no_other_code() -> None:
    """The orders are tensors that compiled code reads: set in place, they are in force."""
    layer = packed_layer()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    x = torch.randn(5, SHAPE[1])
    before = results(compiled, layer, x)
    layer.set_pattern(pattern(seed=1))
    after = results(compiled, layer, x)
    assert same(after, results(layer, layer, x))
    assert not same(after, before)
    assert counter.frame_count == 1


def test_autocast() -> None:
    layer = packed_layer()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, SHAPE[1])
    with torch.autocast("cpu", torch.bfloat16):
        got, expected = results(compiled, layer, x), results(layer, layer, x)
    assert got[0].dtype == torch.bfloat16
    assert same(got, expected)


def test_compiled_code_refuses_what_the_ops_refuse() -> None:
    compiled = torch.compile(packed_layer(), fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match=re.escape("Expected x of [tokens, 12]. Got [5, 8].")):
        compiled(torch.ones(5, 8))
