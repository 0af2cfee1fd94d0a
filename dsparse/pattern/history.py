"""What a weight's pattern has been: coverage, turnover, and the fate of the blocks grown last.

*Degrees of freedom (DOF) covered* is the share of a weight's blocks that have ever been active (also called the in-time
over-parameterisation rate). The *ratio of removed new weights* is the share of the blocks grown at the previous update
that are dropped at this one. Training is best when the first nears 1 while the second stays small (arXiv 2108.06277,
section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dsparse.pattern.block_pattern import BlockPattern
from dsparse.pattern.edit import PatternEdit, apply_edit, num_common


@dataclass(frozen=True, slots=True, eq=False)
class PatternHistory:
    """A weight's pattern now, and what of its past the measures need."""

    pattern: BlockPattern
    ever_active: Tensor
    """[N] bool, by block number."""
    last_grown: Tensor
    """[K] int64, blocks grown at the previous update; empty before the first."""

    @classmethod
    def begin(cls, pattern: BlockPattern) -> PatternHistory:
        """The history of a weight that starts with `pattern`."""
        return cls(
            pattern=pattern,
            ever_active=pattern.block_mask().flatten(),
            last_grown=torch.empty(0, dtype=torch.int64, device=pattern.rows.device),
        )

    def to(self, device: torch.device | str) -> PatternHistory:
        """The same history with its tensors on another device."""
        return PatternHistory(self.pattern.to(device), self.ever_active.to(device), self.last_grown.to(device))

    @property
    def coverage(self) -> float:
        """DOF covered, 0 to 1."""
        return int(torch.count_nonzero(self.ever_active)) / self.pattern.num_blocks

    def after(self, edit: PatternEdit) -> PatternHistory:
        """The history with one more edit."""
        ever_active = self.ever_active.clone()
        ever_active[edit.grown] = True
        return PatternHistory(apply_edit(self.pattern, edit), ever_active, edit.grown)

    def removed_new_ratio(self, edit: PatternEdit) -> float | None:
        """Share of the blocks grown last that `edit` drops; None when none were grown."""
        if self.last_grown.numel() == 0:
            return None
        return num_common(self.last_grown, edit.dropped) / self.last_grown.numel()
