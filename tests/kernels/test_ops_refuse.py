"""What the ops refuse, each with its message, before any kernel follows a pointer."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from dsparse.kernels.index import BlockIndex
from dsparse.kernels.ops import (
    block_linear,
    block_linear_gelu,
    block_linear_input_grad,
    block_linear_weight_grad,
)
from tests.kernels.products import Product, product_of
from tests.pattern.reference import pattern_of


@pytest.fixture
def product() -> Product:
    """[5, 8] times three blocks of side 2 in [6, 8]."""
    return product_of(pattern_of([3, 0, 9], (6, 8), 2), tokens=5)


def forward(p: Product) -> None:
    block_linear(p.x, p.values, p.bias, p.index, "reference")


def gelu(p: Product) -> None:
    block_linear_gelu(p.x, p.values, p.bias, p.index, "reference")


def input_grad(p: Product) -> None:
    block_linear_input_grad(p.dy, p.values, p.index, "reference")


def weight_grad(p: Product) -> None:
    block_linear_weight_grad(p.dy, p.x, p.index, True, "reference")


def on_meta(p: Product) -> BlockIndex:
    return BlockIndex(*(tensor.to("meta") for tensor in p.index))


Change = Callable[[Product], Product]
ONE_DEVICE = "Expected x, values and index of one device, x and values of one dtype. Got torch.float32 on cpu, "
GRAD_DEVICE = "Expected dy, x and index of one device, dy and x of one dtype. Got torch.float32 on cpu, "
FORWARD: dict[str, tuple[Change, str]] = {
    "width": (lambda p: replace(p, x=torch.ones(5, 6)), "Expected x of [tokens, 8]. Got [5, 6]."),
    "three dimensions": (lambda p: replace(p, x=torch.ones(1, 5, 8)), "Expected x of [tokens, 8]. Got [1, 5, 8]."),
    "one dimension": (lambda p: replace(p, x=torch.ones(8)), "Expected x of [tokens, 8]. Got [8]."),
    "slots": (lambda p: replace(p, values=torch.ones(2, 2, 2)), "Expected values of [3, b, b]. Got [2, 2, 2]."),
    "oblong": (lambda p: replace(p, values=torch.ones(3, 2, 4)), "Expected values of [3, b, b]. Got [3, 2, 4]."),
    "flat values": (lambda p: replace(p, values=torch.ones(3, 4)), "Expected values of [3, b, b]. Got [3, 4]."),
    "larger blocks": (lambda p: replace(p, values=torch.ones(3, 4, 4)), "Expected x of [tokens, 16]. Got [5, 8]."),
    "dtype": (lambda p: replace(p, values=p.values.double()), ONE_DEVICE + "torch.float64 on cpu, index on cpu."),
    "values on meta": (
        lambda p: replace(p, values=p.values.to("meta")),
        ONE_DEVICE + "torch.float32 on meta, index on cpu.",
    ),
    "index on meta": (
        lambda p: replace(p, index=on_meta(p)),
        ONE_DEVICE + "torch.float32 on cpu, index on meta.",
    ),
    "bias of one": (
        lambda p: replace(p, bias=torch.ones(1)),
        "Expected a bias of [6], torch.float32 on cpu. Got [1], torch.float32 on cpu.",
    ),
    "bias dtype": (
        lambda p: replace(p, bias=p.bias.bfloat16()),
        "Expected a bias of [6], torch.float32 on cpu. Got [6], torch.bfloat16 on cpu.",
    ),
    "bias on meta": (
        lambda p: replace(p, bias=p.bias.to("meta")),
        "Expected a bias of [6], torch.float32 on cpu. Got [6], torch.float32 on meta.",
    ),
}
INPUT_GRAD: dict[str, tuple[Change, str]] = {
    "width": (lambda p: replace(p, dy=torch.ones(5, 8)), "Expected dy of [tokens, 6]. Got [5, 8]."),
    "dtype": (
        lambda p: replace(p, dy=p.dy.half()),
        "Expected dy, values and index of one device, dy and values of one dtype. Got torch.float16 on cpu, ",
    ),
}
WEIGHT_GRAD: dict[str, tuple[Change, str]] = {
    "tokens": (
        lambda p: replace(p, dy=torch.ones(4, 6)),
        "Expected dy and x of [tokens, 3 b] and [tokens, 4 b]. Got [4, 6] and [5, 8].",
    ),
    "blocks differ": (lambda p: replace(p, dy=torch.ones(5, 12)), "Got [5, 12] and [5, 8]."),
    "no multiple": (lambda p: replace(p, x=torch.ones(5, 9)), "Got [5, 6] and [5, 9]."),
    "dtype": (lambda p: replace(p, x=p.x.double()), GRAD_DEVICE + "torch.float64 on cpu, index on cpu."),
    "x on meta": (lambda p: replace(p, x=p.x.to("meta")), GRAD_DEVICE + "torch.float32 on meta, index on cpu."),
    "index on meta": (lambda p: replace(p, index=on_meta(p)), GRAD_DEVICE + "torch.float32 on cpu, index on meta."),
}


def refuses(call: Callable[[Product], None], product: Product, case: tuple[Change, str]) -> None:
    change, message = case
    call(product)
    with pytest.raises(ValueError, match=re.escape(message)):
        call(change(product))


@pytest.mark.parametrize("call", [forward, gelu])
@pytest.mark.parametrize("case", FORWARD.values(), ids=FORWARD)
def test_forward(product: Product, case: tuple[Change, str], call: Callable[[Product], None]) -> None:
    refuses(call, product, case)


@pytest.mark.parametrize("case", INPUT_GRAD.values(), ids=INPUT_GRAD)
def test_input_grad(product: Product, case: tuple[Change, str]) -> None:
    refuses(input_grad, product, case)


@pytest.mark.parametrize("case", WEIGHT_GRAD.values(), ids=WEIGHT_GRAD)
def test_weight_grad(product: Product, case: tuple[Change, str]) -> None:
    refuses(weight_grad, product, case)
