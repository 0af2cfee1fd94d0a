"""What an update did, for whoever watches training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """What one update did to one weight."""

    num_moved: int
    """Blocks dropped, and as many grown."""
    turnover: float
    """Share of the active blocks that are other ones after the update, 0 to 1."""
    removed_new_ratio: float | None
    """Share of the blocks grown at the previous update that this one dropped; None when none were grown."""
    coverage: float
    """DOF covered after the update, 0 to 1."""
    density: float
    """Active share of the weight, 0 to 1."""


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one update did."""

    update: int
    """Number of the update, from 1."""
    step: int
    """Applied optimizer step after which it happened."""
    drop_fraction: float
    """pr(t), the share of active blocks that was to move."""
    duration_s: float
    """Wall time of the update on this rank."""
    weights: Mapping[str, WeightUpdate]
    """By parameter name."""
