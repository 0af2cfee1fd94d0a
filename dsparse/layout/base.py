"""What the engine asks of a weight's layout, whichever it is.

A layout knows how positions in the stored parameter, flattened, belong to blocks. Everything that ZeRO keeps of a
weight (master, moments, copies) is laid out like the parameter, so the engine needs no more.

Shape legend: n elements of a fragment, N elements of the stored parameter, S slots.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from dsparse.methods.scores import Norm
from dsparse.pattern.block_pattern import BlockPattern
from dsparse.pattern.edit import PatternEdit


class WeightLayout(Protocol):
    """How one weight holds its pattern."""

    def set_pattern(self, pattern: BlockPattern) -> None:
        """Puts another pattern in force, from the next forward on."""

    def holds(self, pattern: BlockPattern) -> bool:
        """Whether exactly this pattern is in force."""

    def partial_scores(self, fragment_n: Tensor, start: int, pattern: BlockPattern, norm: Norm) -> Tensor:
        """int64 [S], norms of the active blocks from elements `start` … of the stored parameter (fp32 [n])."""

    def touched(self, pattern: BlockPattern, edit: PatternEdit) -> Tensor:
        """bool [N], where an edit of `pattern` makes the stored parameter 0."""

    def stale(self, before: BlockPattern, after: BlockPattern) -> Tensor:
        """bool [N], where optimizer state kept from one pattern has no place in another."""

    @property
    def inactive(self) -> Tensor | None:
        """bool, shaped like the stored parameter: where it must be 0. None where everything stored is active."""

    def release(self) -> None:
        """Takes off the model what is only there while an engine trains it."""
