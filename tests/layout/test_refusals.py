"""What is not packed, and that it is left as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from dsparse.errors import UserError
from dsparse.layout.convert import pack_linears
from dsparse.layout.packed import PackedLinear
from dsparse.pattern.block_pattern import BlockPattern
from tests.layout.test_packed import small_pattern
from tests.pattern.reference import pattern_of


class Subclass(nn.Linear):
    pass


def with_hook(add: str) -> nn.Linear:
    linear = nn.Linear(8, 6)
    getattr(linear, add)(lambda *arguments: None)
    return linear


def with_weight_hook() -> nn.Linear:
    linear = nn.Linear(8, 6)
    linear.weight.register_hook(lambda gradient: None)
    return linear


def with_own_forward() -> nn.Linear:
    linear = nn.Linear(8, 6)
    linear.forward = lambda x: x  # type: ignore[method-assign]
    return linear


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "subclass": (lambda: Subclass(8, 6), "Expected an nn.Linear itself .* Got Subclass"),
    "other module": (lambda: nn.Bilinear(8, 8, 6), "Got Bilinear"),
    "parametrization": (lambda: parametrizations.weight_norm(nn.Linear(8, 6)), "Got ParametrizedLinear"),
    "shape": (lambda: nn.Linear(6, 8), r"Expected a pattern of \[8, 6\]\. Got one of \[6, 8\]"),
    "weight hook": (with_weight_hook, "without hooks"),
    "own forward": (with_own_forward, "without hooks"),
    **{
        add: (lambda add=add: with_hook(add), "without hooks")  # type: ignore[misc]
        for add in (
            "register_forward_hook",
            "register_forward_pre_hook",
            "register_full_backward_hook",
            "register_full_backward_pre_hook",
        )
    },
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses(make: Callable[[], nn.Module], message: str) -> None:
    module = make()
    shapes = [parameter.shape for parameter in module.parameters()]
    with pytest.raises(UserError, match=message):
        PackedLinear.from_linear(module, small_pattern())  # type: ignore[arg-type]
    assert [parameter.shape for parameter in module.parameters()] == shapes


def test_too_many_values() -> None:
    """Offsets into values are 32-bit; meta tensors take no memory."""
    side = 2**16
    linear = nn.Linear(side, side, bias=False, device="meta")
    with pytest.raises(UserError, match=r"Expected at most 2147483647 active values in one weight\. Got 4294967296"):
        PackedLinear.from_linear(linear, pattern_of([0], (side, side), side))
    assert linear.weight.shape == (side, side)
    half = pattern_of([0, 3], (side, side), side // 2)
    with pytest.raises(UserError, match="Got 2147483648"):
        PackedLinear(nn.Parameter(torch.empty(2, side // 2, side // 2, device="meta")), None, half)
    layer = PackedLinear.from_linear(linear, pattern_of([3], (side, side), side // 2))
    assert layer.weight.numel() == 2**30


def test_a_layer_that_reads_its_weights_itself() -> None:
    model = nn.ModuleDict({"encoder": nn.TransformerEncoderLayer(8, 2, dim_feedforward=16)})
    pattern = BlockPattern.random((16, 8), block=4, density=0.5)
    with pytest.raises(UserError, match=r"'encoder.linear1.weight' of an nn.TransformerEncoderLayer"):
        pack_linears(model, {"encoder.linear1.weight": pattern})
    assert type(model["encoder"].linear1) is nn.Linear
