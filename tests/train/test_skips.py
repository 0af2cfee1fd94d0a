"""Steps that were not applied are counted in a row, and not for ever."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dsparse.errors import UserError
from dsparse.train.skips import SkippedSteps, or_none


def test_too_many_in_a_row_end_the_run() -> None:
    said: list[str] = []
    skips = SkippedSteps(3, Path("runs/a/checkpoints"), said.append)
    skips.skipped(4, loss=math.nan, gradient_norm=None)
    skips.skipped(5, loss=2.5, gradient_norm=math.inf)
    with pytest.raises(UserError, match=r"loss nan.*step 6.*3 steps in a row.*max_skipped_steps.*runs/a/checkpoints"):
        skips.skipped(6, loss=math.nan, gradient_norm=math.nan)
    assert said == [
        "step 4 was not applied: loss nan, gradient norm unknown (1 in a row)",
        "step 5 was not applied: loss 2.5, gradient norm inf (2 in a row)",
    ]


def test_an_applied_step_ends_a_row() -> None:
    skips = SkippedSteps(2, Path(), lambda line: None)
    for step in range(1, 20, 2):
        skips.skipped(step, loss=math.nan, gradient_norm=None)
        assert skips.in_a_row == 1
        skips.applied()
        assert skips.in_a_row == 0


@pytest.mark.parametrize(("value", "kept"), [(1.5, 1.5), (math.nan, None), (-math.inf, None), (None, None)])
def test_what_json_has_no_number_for_is_none(value: float | None, kept: float | None) -> None:
    assert or_none(value) == kept
