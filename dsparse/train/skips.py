"""Steps that the engine did not apply, because a loss or a gradient was not finite: said, counted, and not for ever."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from dsparse.errors import UserError


class SkippedSteps:
    """Counts them in a row. Every rank sees the same, so every rank stops at the same step."""

    def __init__(self, limit: int, checkpoints: Path, say: Callable[[str], None]) -> None:
        """Begins with none.

        Args:
            limit: so many in a row end the run.
            checkpoints: folder of the run's, to be named then.
            say: prints a line.
        """
        self._limit = limit
        self._checkpoints = checkpoints
        self._say = say
        self.in_a_row = 0
        """Unapplied steps up to the last one."""

    def applied(self) -> None:
        """The last step was applied."""
        self.in_a_row = 0

    def skipped(self, step: int, *, loss: float, gradient_norm: float | None) -> None:
        """The last step was not applied.

        Args:
            step: its number.
            loss: of its global batch.
            gradient_norm: as the engine has it, if it does.

        Raises:
            UserError: there were too many in a row.
        """
        self.in_a_row += 1
        what = f"loss {loss:g}, gradient norm {'unknown' if gradient_norm is None else format(gradient_norm, 'g')}"
        if self.in_a_row < self._limit:
            self._say(f"step {step} was not applied: {what} ({self.in_a_row} in a row)")
            return
        raise UserError(
            f"Expected finite losses and gradients. Got {what} at step {step}, the last of {self.in_a_row} steps in a "
            "row that were not applied (train.max_skipped_steps): lower train.learning_rate or lengthen "
            f"train.warmup_steps; checkpoints in {self._checkpoints} are as they were."
        )


def or_none(value: float | None) -> float | None:
    """The value, or None where JSON and a plot have no number for it."""
    return value if value is not None and math.isfinite(value) else None
