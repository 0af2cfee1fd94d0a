"""The reference backend: plain torch, any block size, any floating-point dtype, any device.

It gathers the blocks' inputs, multiplies them all at once and adds the products up, so it costs memory for every block
and is made to be right, not fast. Sums go over the blocks of a row in column order, as in the other backends, whatever
their slots are; within a block and across hardware the order of additions is torch's. Half precision is summed in fp32
and rounded once, as `nn.Linear` does.

Shape legend: T tokens, O out features, I in features, S slots, b block side, R block rows, C block columns.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dsparse.kernels.index import BlockIndex

NAME = "reference"


def is_available() -> tuple[bool, str]:
    """Whether this backend can be used here, and if not, why."""
    return True, ""


def supports(block: int, dtype: torch.dtype) -> bool:
    """Whether it has the block size and dtype."""
    return block >= 1 and dtype.is_floating_point


def runs_on(device_type: str) -> bool:
    """Whether it computes on a kind of device."""
    return True


def forward(
    x_TI: Tensor, values_Sbb: Tensor, bias_O: Tensor | None, index: BlockIndex, *, gelu: bool = False
) -> tuple[Tensor, Tensor | None]:
    """y = x Wᵀ + bias, and with `gelu` GELU(y) beside y itself, which the gradient needs.

    Returns:
        ([T, O] outputs, None), or ([T, O] GELU of the outputs, [T, O] outputs) with `gelu`.
    """
    y_TO = _gathered_product(x_TI, values_Sbb.mT, index.cols_S, index.rows_S, index.row_slots, index.grid[0])
    if bias_O is not None:
        y_TO = y_TO + bias_O
    y_TO = y_TO.to(x_TI.dtype)
    return (F.gelu(y_TO), y_TO) if gelu else (y_TO, None)


def input_gradient(dy_TO: Tensor, values_Sbb: Tensor, index: BlockIndex) -> Tensor:
    """dx = dy W, [T, I]."""
    dx_TI = _gathered_product(dy_TO, values_Sbb, index.rows_S, index.cols_S, index.col_slots, index.grid[1])
    return dx_TI.to(dy_TO.dtype)


def weight_gradient(
    dy_TO: Tensor, x_TI: Tensor, index: BlockIndex, block: int, *, with_bias: bool = False
) -> tuple[Tensor, Tensor | None]:
    """dW = dyᵀ x at active blocks, [S, b, b]; with `with_bias` also the bias gradient, dy summed over tokens, [O]."""
    num_rows, num_cols = index.grid
    dy_SbT = dy_TO.view(dy_TO.shape[0], num_rows, block).permute(1, 2, 0)[index.rows_S]
    x_STb = x_TI.view(x_TI.shape[0], num_cols, block).permute(1, 0, 2)[index.cols_S]
    return torch.bmm(dy_SbT, x_STb), dy_TO.sum(0) if with_bias else None


def _gathered_product(
    x_TI: Tensor, blocks_Sbb: Tensor, sources_S: Tensor, targets_S: Tensor, order_S: Tensor, num: int
) -> Tensor:
    """Sums x[:, source block] @ block into each target block, slots in the order given: [T, num · b], at least fp32."""
    wide = torch.promote_types(x_TI.dtype, torch.float32)
    x_TI, blocks_Sbb = x_TI.to(wide), blocks_Sbb[order_S].to(wide)
    tokens, block = x_TI.shape[0], blocks_Sbb.shape[1]
    x_STb = x_TI.view(tokens, x_TI.shape[1] // block, block).permute(1, 0, 2)[sources_S[order_S]]
    sums_NTb = x_TI.new_zeros(num, tokens, block)
    sums_NTb = sums_NTb.index_add(0, targets_S[order_S], torch.bmm(x_STb, blocks_Sbb))
    return sums_NTb.permute(1, 0, 2).reshape(tokens, num * block)
