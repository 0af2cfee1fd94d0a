"""Block norms that do not depend on who adds them up.

Under ZeRO a weight is cut into fragments anywhere, inside rows and inside blocks, and each rank sees only its own. A
floating-point sum would depend on where the cuts are. So each element is turned into an integer first (an operation on
that element alone), and integers are added: any order, any partition, any device gives the same bits.

- L1 and L2 (as Σ w², which orders blocks as its root does) are sums of fixed-point int64 values.
- L∞, and every norm of a 1×1 block, is the largest |w|: the bit pattern of a non-negative float32, which orders as the
  float does, reduced by maximum. Nothing is rounded.

Fixed point: |w| is rounded to a multiple of 2**-40 and w² to one of 2**-44 (|w| down to 2e-7), and each element is
capped so that the sum over a block cannot overflow: at b = 64 the cap is |w| = 1024 for L1 and |w| = 8 for L2, at
b = 256 |w| = 64 and |w| = 2, outside of any healthy weight of a sparse layer, and larger for smaller blocks.

Shape legend: n elements of a fragment, R block rows, C block columns, S slots, b block side.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dsparse.pattern.block_pattern import BlockPattern

Norm = Literal["l1", "l2", "linf"]
Reduction = Literal["sum", "max"]

_FRACTION_BITS = {"l1": 40, "l2": 44}


def reduction_of(norm: Norm, block: int) -> Reduction:
    """How partial scores of ranks combine."""
    return "max" if norm == "linf" or block == 1 else "sum"


def partial_block_scores(fragment_n: Tensor, start: int, pattern: BlockPattern, norm: Norm) -> Tensor:
    """Scores of the active blocks from one contiguous fragment of the flattened weight.

    Args:
        fragment_n: float32, elements `start` … `start + n − 1` of the weight in row-major order; finite.
        start: first element of the fragment.
        pattern: the pattern before the update.
        norm: "l1", "l2" or "linf".

    Returns:
        int64 [S], by slot; 0 at blocks the fragment does not touch. Partial scores of the fragments of a weight combine
        by `reduction_of(norm, pattern.block)`.
    """
    use_max = reduction_of(norm, pattern.block) == "max"
    integers_n = _float_bits(fragment_n) if use_max else _fixed_point(fragment_n, norm, pattern.block)
    block, num_cols = pattern.block, pattern.grid[1]
    first_row, block_rows = _whole_stretches(integers_n, start, block * pattern.shape[1])
    rows_PI = blocks_RC = block_rows.view(-1, pattern.shape[1])
    if block > 1:
        tiles_RbCb = rows_PI.view(-1, block, num_cols, block)
        blocks_RC = tiles_RbCb.amax(dim=(1, 3)) if use_max else tiles_RbCb.sum(dim=(1, 3))
    local_row_S = pattern.rows.to(torch.int64) - first_row
    touched_S = (local_row_S >= 0) & (local_row_S < blocks_RC.shape[0])
    scores_S = torch.zeros(pattern.num_active, dtype=torch.int64, device=fragment_n.device)
    scores_S[touched_S] = blocks_RC[local_row_S[touched_S], pattern.cols[touched_S].to(torch.int64)]
    return scores_S


def partial_slot_scores(fragment_n: Tensor, start: int, pattern: BlockPattern, norm: Norm) -> Tensor:
    """As `partial_block_scores`, bit for bit, for a weight of which only active blocks are stored, by slot.

    Args:
        fragment_n: float32, elements `start` … `start + n − 1` of the stored [S, b, b]; finite.
        start: first element of the fragment.
        pattern: the pattern before the update.
        norm: "l1", "l2" or "linf".

    Returns:
        int64 [S], by slot; 0 at slots the fragment does not touch.
    """
    use_max = reduction_of(norm, pattern.block) == "max"
    integers_n = _float_bits(fragment_n) if use_max else _fixed_point(fragment_n, norm, pattern.block)
    first, slots = _whole_stretches(integers_n, start, pattern.block**2)
    scores_S = integers_n.new_zeros(pattern.num_active)
    scores_S[first : first + len(slots)] = slots.amax(1) if use_max else slots.sum(1)
    return scores_S


def _float_bits(fragment_n: Tensor) -> Tensor:
    return fragment_n.to(torch.float32).abs().view(torch.int32).to(torch.int64)


def _fixed_point(fragment_n: Tensor, norm: Norm, block: int) -> Tensor:
    # float64 holds |w|, w² and their products with a power of two exactly, so the one rounding is that to an integer.
    magnitude_n = fragment_n.to(torch.float64).abs_()
    if norm == "l2":
        magnitude_n = magnitude_n.square_()
    cap = float(2**62 // (block * block))
    return magnitude_n.mul_(2.0 ** _FRACTION_BITS[norm]).clamp_(max=cap).round_().to(torch.int64)


def _whole_stretches(integers_n: Tensor, start: int, length: int) -> tuple[int, Tensor]:
    """The fragment laid into whole stretches of `length` elements, zeros around it.

    Returns:
        The number of the first stretch, and int64 [stretches, length].
    """
    end = start + integers_n.numel()
    first, past = start // length, -(-end // length)
    if start == first * length and end == past * length:
        return first, integers_n.view(-1, length)
    padded = integers_n.new_zeros((past - first) * length)
    offset = start - first * length
    padded[offset : offset + integers_n.numel()] = integers_n
    return first, padded.view(-1, length)
