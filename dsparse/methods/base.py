"""A method as data: what it drops is the block norm of `scores`, what it grows is a function given here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dsparse.pattern.block_pattern import BlockPattern


@dataclass(frozen=True, slots=True)
class UpdateContext:
    """Which update of which weight this is: all that a method may depend on besides pattern and scores."""

    seed: int
    name: str
    """Parameter name of the weight."""
    update: int
    """Number of the update, from 1."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to change a pattern.

    `grow_score` maps (pattern, context) to one score per block number, int64 or float [N]; among the inactive blocks
    the highest are grown. None for a method that never changes a pattern.
    """

    name: str
    grow_score: Callable[[BlockPattern, UpdateContext], Tensor] | None
