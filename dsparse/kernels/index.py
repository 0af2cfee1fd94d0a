"""The orders in which kernels walk a pattern's blocks, derived from it once per update.

Block values are stored by slot, and slots are in no order. A kernel that computes outputs walks the blocks of one block
row after another, one that computes input gradients those of one block column after another. Both find their blocks
through a list of slots and offsets into it: CSR and CSC, with slots for the entries.

Shape legend: S slots, R block rows, C block columns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dsparse.pattern.block_pattern import BlockPattern


class BlockIndex(NamedTuple):
    """Where the blocks of a packed weight are. A tuple of tensors, so that an op can take it apart."""

    rows_S: Tensor
    """int32 [S], block row of each slot."""
    cols_S: Tensor
    """int32 [S], block column of each slot."""
    row_offsets: Tensor
    """int32 [R + 1]: the slots of block row r are `row_slots[row_offsets[r] : row_offsets[r + 1]]`."""
    row_slots: Tensor
    """int32 [S], slots by (row, column)."""
    col_offsets: Tensor
    """int32 [C + 1]: the slots of block column c are `col_slots[col_offsets[c] : col_offsets[c + 1]]`."""
    col_slots: Tensor
    """int32 [S], slots by (column, row)."""

    @classmethod
    def of(cls, pattern: BlockPattern) -> BlockIndex:
        """The index of a pattern, on the pattern's device."""
        num_rows, num_cols = pattern.grid
        by_row_S, by_column_S = _keys(pattern.rows, pattern.cols, pattern.grid)
        return cls(
            # Copies: a layer's index changes in place, and a pattern never does.
            rows_S=pattern.rows.clone(memory_format=torch.contiguous_format),
            cols_S=pattern.cols.clone(memory_format=torch.contiguous_format),
            row_offsets=_offsets(pattern.rows, num_rows),
            row_slots=_order(by_row_S),
            col_offsets=_offsets(pattern.cols, num_cols),
            col_slots=_order(by_column_S),
        )

    def is_of(self, pattern: BlockPattern) -> bool:
        """Whether this is exactly the index of a valid pattern on its device, in half the time that making it takes."""
        num_rows, num_cols = pattern.grid
        by_row_S, by_column_S = _keys(pattern.rows, pattern.cols, pattern.grid)
        return (
            torch.equal(self.rows_S, pattern.rows)
            and torch.equal(self.cols_S, pattern.cols)
            and torch.equal(self.row_offsets, _offsets(pattern.rows, num_rows))
            and torch.equal(self.col_offsets, _offsets(pattern.cols, num_cols))
            and _sorts(self.row_slots, by_row_S)
            and _sorts(self.col_slots, by_column_S)
        )

    @property
    def grid(self) -> tuple[int, int]:
        """(R, C), blocks."""
        return self.row_offsets.numel() - 1, self.col_offsets.numel() - 1


def _offsets(lines_S: Tensor, num_lines: int) -> Tensor:
    """int32 [num_lines + 1], where each line's blocks begin in an order by line."""
    counts = torch.bincount(lines_S, minlength=num_lines)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)


def _keys(rows_S: Tensor, cols_S: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """[S] each, what slots are ordered by: (row, column), and (column, row)."""
    num_rows, num_cols = grid
    if num_rows * num_cols > 2**31 - 1:
        rows_S, cols_S = rows_S.to(torch.int64), cols_S.to(torch.int64)
    return torch.add(cols_S, rows_S, alpha=num_cols), torch.add(rows_S, cols_S, alpha=num_rows)


def _order(keys_S: Tensor) -> Tensor:
    """int32 [S], slots in ascending order of their keys."""
    # Keys are all different; but what is to be stable torch sorts by radix, in half the time.
    return torch.sort(keys_S, stable=True).indices.to(torch.int32)


def _sorts(slots_S: Tensor, keys_S: Tensor) -> bool:
    """Whether the slots are those of `_order`, for keys that are all different and at least one."""
    if slots_S.shape != keys_S.shape:
        return False
    lowest, highest = torch.aminmax(slots_S)
    if lowest < 0 or highest >= keys_S.numel():
        return False
    # Keys that rise at every step are all there, for as many as there are.
    sorted_S = keys_S.index_select(0, slots_S)
    return bool((sorted_S[1:] > sorted_S[:-1]).all())
