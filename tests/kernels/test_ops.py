"""The ops as torch sees them: schemas, shapes without data, derivatives of both orders, compilers and counters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import dsparse.kernels.ops  # noqa: F401
from dsparse.kernels.index import BlockIndex
from dsparse.layout.packed import PackedLinear, pack, unpack
from dsparse.pattern.block_pattern import BlockPattern

OPS = torch.ops.dsparse
PATTERN = BlockPattern.random((12, 8), block=2, density=0.4, seed=1)
INDEX = BlockIndex.of(PATTERN)


def draw(*shape: int, seed: int, needs_grad: bool = True) -> Tensor:
    values = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return values.requires_grad_(needs_grad)


X, VALUES, BIAS, DY = (
    draw(5, 8, seed=1),
    draw(PATTERN.num_active, 2, 2, seed=2),
    draw(12, seed=3),
    draw(5, 12, seed=4),
)
CALLS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "linear": (OPS.block_linear, (X, VALUES, BIAS, INDEX, "reference")),
    "linear without bias": (OPS.block_linear, (X, VALUES, None, INDEX, "reference")),
    "gelu": (OPS.block_linear_gelu, (X, VALUES, BIAS, INDEX, "reference")),
    "input gradient": (OPS.block_linear_input_grad, (DY, VALUES, INDEX, "reference")),
    "weight gradient": (OPS.block_linear_weight_grad, (DY, X, INDEX, True, "reference")),
    "weight gradient without bias": (OPS.block_linear_weight_grad, (DY, X, INDEX, False, "reference")),
}


@pytest.mark.parametrize("name", CALLS)
def test_torch_finds_nothing_wrong_with_an_op(name: str) -> None:
    op, args = CALLS[name]
    # As a list: opcheck compares the types of what it copies.
    checked = torch.library.opcheck(
        op.default, tuple(list(one) if isinstance(one, BlockIndex) else one for one in args)
    )
    assert set(checked.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", CALLS)
def test_derivatives_of_both_orders(name: str) -> None:
    op, args = CALLS[name]
    places = [place for place, one in enumerate(args) if isinstance(one, Tensor)]

    def function(*tensors: Tensor) -> Any:
        given = list(args)
        for place, tensor in zip(places, tensors, strict=True):
            given[place] = tensor
        results = op(*given)
        return tuple(r for r in results if r.numel()) if isinstance(results, tuple) else results

    inputs = [args[place] for place in places]
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("frozen", ["x", "values", "bias"])
def test_what_needs_no_gradient_gets_none(frozen: str) -> None:
    tensors = {"x": X.detach().clone(), "values": VALUES.detach().clone(), "bias": BIAS.detach().clone()}
    for name, tensor in tensors.items():
        tensor.requires_grad_(name != frozen)
    OPS.block_linear(*tensors.values(), INDEX, "reference").sum().backward()
    assert [name for name, tensor in tensors.items() if tensor.grad is None] == [frozen]


def test_gelu_alone_and_together_with_what_went_into_it() -> None:
    def plain() -> tuple[Tensor, Tensor]:
        y = F.linear(X, unpack(VALUES, PATTERN.rows, PATTERN.cols, PATTERN.shape), BIAS)
        return F.gelu(y), y

    losses: list[Callable[[Tensor, Tensor], Tensor]] = [
        lambda gelu, y: gelu.square().sum(),
        lambda gelu, y: y.square().sum(),
        lambda gelu, y: (gelu * y).sum(),
    ]
    for loss in losses:
        ours = torch.autograd.grad(loss(*OPS.block_linear_gelu(X, VALUES, BIAS, INDEX, "reference")), (X, VALUES, BIAS))
        theirs = torch.autograd.grad(loss(*plain()), (X, VALUES, BIAS))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)


def test_a_pattern_that_changes_before_the_backward_is_noticed() -> None:
    weight = torch.nn.Parameter(pack(draw(12, 8, seed=5, needs_grad=False), PATTERN))
    layer = PackedLinear(weight, None, PATTERN, kernel="reference")
    loss = layer(X).sum()
    layer.set_pattern(BlockPattern.random((12, 8), block=2, density=0.4, seed=2))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_compiled_is_as_eager() -> None:
    layer = PackedLinear(torch.nn.Parameter(VALUES.detach().clone()), None, PATTERN, kernel="reference")
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for run in (layer, compiled):
        layer.weight.grad = None
        y = run(X)
        y.square().sum().backward()
        if run is layer:
            expected = y, layer.weight.grad
    assert torch.equal(y, expected[0]) and torch.equal(layer.weight.grad, expected[1])


def test_flops_are_two_per_token_and_active_weight() -> None:
    with FlopCounterMode(display=False) as counter:
        OPS.block_linear(X, VALUES, BIAS, INDEX, "reference").sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 5 * VALUES.numel()
