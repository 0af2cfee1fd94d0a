"""Other sparse products that run on a CPU, as far as each has the three that training needs, for benchmarks/kernels.py.

| peer | forward | input gradient | weight gradient | how to install |
|---|---|---|---|---|
| torch CSR, BSR (MKL) | yes | yes | CSR only | with torch |
| scipy CSR, BSR, one thread | yes | yes | no | `pip install dsparse[benchmark]` |
| SparseProp (arXiv 2302.04852) | yes | with the weight's | with the input's | see below |

SparseProp's source package compiles against pybind11, which pip does not know, so it is no extra of ours:
`pip install setuptools pybind11 scipy && pip install --no-build-isolation sparseprop`.

What a peer wants prepared once per pattern (a transposed copy, another layout) is prepared outside the measurement.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT, ALL = "forward", "input gradient", "weight gradient", "all"
PRODUCTS = (FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT)


@dataclass
class Contender:
    """Something that computes products of one layer."""

    name: str
    products: dict[str, Callable[[], Any]] = field(default_factory=dict)
    """By product; without those that it lacks. `ALL` where it does them together only."""


@dataclass
class Layer:
    """One layer's dense matrices, the weight 0 outside its blocks."""

    x_TI: Tensor
    dy_TO: Tensor
    w_OI: Tensor
    block: int


def dense(layer: Layer) -> Contender:
    """torch's own matmuls of the layer."""
    x_TI, dy_TO, w_OI = layer.x_TI, layer.dy_TO, layer.w_OI
    return Contender(
        "dense",
        {FORWARD: lambda: x_TI @ w_OI.T, INPUT_GRADIENT: lambda: dy_TO @ w_OI, WEIGHT_GRADIENT: lambda: dy_TO.T @ x_TI},
    )


def peers(layer: Layer) -> Iterator[Contender]:
    """Those installed that take this layer: float32 on the CPU."""
    if layer.x_TI.dtype != torch.float32 or layer.x_TI.device.type != "cpu":
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # sparse tensors are in beta
        yield _torch_csr(layer) if layer.block == 1 else _torch_bsr(layer)
    if importlib.util.find_spec("scipy") is not None:
        yield _scipy(layer)
    if layer.block == 1 and importlib.util.find_spec("sparseprop") is not None:
        yield _sparseprop(layer)


def _torch_csr(layer: Layer) -> Contender:
    w_OI, w_IO = layer.w_OI.to_sparse_csr(), layer.w_OI.T.contiguous().to_sparse_csr()
    x_TI, dy_TO = layer.x_TI, layer.dy_TO
    return Contender(
        "torch CSR",
        {
            FORWARD: lambda: torch.mm(w_OI, x_TI.T),
            INPUT_GRADIENT: lambda: torch.mm(w_IO, dy_TO.T),
            WEIGHT_GRADIENT: lambda: torch.sparse.sampled_addmm(w_OI, dy_TO.T, x_TI, beta=0.0),
        },
    )


def _torch_bsr(layer: Layer) -> Contender:
    side = (layer.block, layer.block)
    w_OI, w_IO = layer.w_OI.to_sparse_bsr(side), layer.w_OI.T.contiguous().to_sparse_bsr(side)
    x_TI, dy_TO = layer.x_TI, layer.dy_TO
    return Contender(
        "torch BSR", {FORWARD: lambda: torch.mm(w_OI, x_TI.T), INPUT_GRADIENT: lambda: torch.mm(w_IO, dy_TO.T)}
    )


def _scipy(layer: Layer) -> Contender:
    from scipy.sparse import csr_array

    w_OI = csr_array(layer.w_OI.numpy())
    w_IO = csr_array(layer.w_OI.T.numpy())
    if layer.block > 1:
        side = (layer.block, layer.block)
        w_OI, w_IO = w_OI.tobsr(side), w_IO.tobsr(side)
    x_IT, dy_OT = layer.x_TI.numpy().T, layer.dy_TO.numpy().T
    name = "scipy CSR" if layer.block == 1 else "scipy BSR"
    return Contender(name, {FORWARD: lambda: w_OI @ x_IT, INPUT_GRADIENT: lambda: w_IO @ dy_OT})


def _sparseprop(layer: Layer) -> Contender:
    from sparseprop.modules.linear import SparseLinear

    linear = SparseLinear(layer.w_OI)
    x_TI = layer.x_TI.clone().requires_grad_()

    def all_three() -> None:
        x_TI.grad = None
        linear.zero_grad(set_to_none=True)
        linear(x_TI).backward(layer.dy_TO)

    def forward() -> Tensor:
        with torch.no_grad():
            return linear(x_TI)

    return Contender("SparseProp", {FORWARD: forward, ALL: all_three})
