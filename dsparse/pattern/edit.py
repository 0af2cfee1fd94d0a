"""Drop and grow: the heart of dynamic sparse training, as a pure function from a pattern and scores to an edit.

A method is a drop score and a grow score. SET drops the smallest magnitudes and grows at random; RigL would differ in
the grow score alone.

Shape legend: S slots, N blocks, K blocks moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dsparse.pattern.block_pattern import BlockPattern
from dsparse.pattern.select import select_largest, select_smallest


@dataclass(frozen=True, slots=True, eq=False)
class PatternEdit:
    """K slots that give up one block for another."""

    slots: Tensor
    """[K] int64, ascending."""
    dropped: Tensor
    """[K] int64, block number that each of those slots held."""
    grown: Tensor
    """[K] int64, block number that it holds from now on."""

    @property
    def num_moved(self) -> int:
        """K."""
        return self.slots.numel()

    @property
    def num_changed(self) -> int:
        """Blocks that are inactive after the edit and were active before: K, less those dropped and grown at once."""
        return self.num_moved - num_common(self.dropped, self.grown)

    def touched_mask(self, pattern: BlockPattern) -> Tensor:
        """bool [R, C], true at dropped and at grown blocks: where weights and moments become 0."""
        touched_N = torch.zeros(pattern.num_blocks, dtype=torch.bool, device=self.dropped.device)
        touched_N[self.dropped] = True
        touched_N[self.grown] = True
        return touched_N.view(pattern.grid)


def drop_and_grow(
    pattern: BlockPattern,
    drop_score_S: Tensor,
    grow_score_N: Tensor,
    num_moved: int,
    *,
    regrow_dropped: bool = False,
) -> PatternEdit:
    """Replaces the lowest `num_moved` active blocks by the highest-scored inactive ones (arXiv 2108.06277, section 2).

    Ties go to the lower block number in both choices. Where fewer candidates than `num_moved` are inactive (density
    above one half), as many blocks move as there are candidates, never more.

    Args:
        pattern: the pattern before the update.
        drop_score_S: int64 or float, by slot; the lowest are dropped.
        grow_score_N: int64 or float, by block number; only entries of candidates are read, the highest are grown.
        num_moved: how many blocks to move, 0 to S.
        regrow_dropped: whether a block dropped by this very edit is a candidate for growth.

    Returns:
        The edit. Grown blocks are given to the dropped slots in ascending order of both.
    """
    numbers_S = pattern.block_numbers()
    is_candidate_N = ~pattern.block_mask().flatten()
    if not regrow_dropped:
        num_moved = min(num_moved, pattern.num_blocks - pattern.num_active)
    slots_K = select_smallest(drop_score_S, numbers_S, num_moved)
    dropped_K = numbers_S[slots_K]
    if regrow_dropped:
        is_candidate_N[dropped_K] = True
    grown_K = select_largest(grow_score_N, is_candidate_N, num_moved)
    return PatternEdit(slots=slots_K, dropped=dropped_K, grown=grown_K)


def apply_edit(pattern: BlockPattern, edit: PatternEdit) -> BlockPattern:
    """The pattern after the edit: edited slots hold their grown block, all others are untouched."""
    num_cols = pattern.grid[1]
    rows, cols = pattern.rows.clone(), pattern.cols.clone()
    grown_rows = edit.grown // num_cols
    rows[edit.slots] = grown_rows.to(torch.int32)
    cols[edit.slots] = (edit.grown - grown_rows * num_cols).to(torch.int32)
    return BlockPattern(rows=rows, cols=cols, shape=pattern.shape, block=pattern.block)


def num_common(some: Tensor, others: Tensor) -> int:
    """How many of some block numbers (int64, all different) are among others (likewise)."""
    if not some.numel() or not others.numel():
        return 0
    # A table of all numbers up to the largest, where sorting either would take longer.
    is_other = torch.zeros(int(torch.maximum(some.max(), others.max())) + 1, dtype=torch.bool, device=some.device)
    is_other[others] = True
    return int(torch.count_nonzero(is_other[some]))
