"""Finding duplicates takes the memory it is given, whatever it is given to read, and time in proportion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsparse.train.config import CHECKOUT

MEMORY_BYTES = 64 << 20
MILLION = 1_000_000


def measured(case: str, num_units: int, folder: Path) -> tuple[list[int], float]:
    """How many units are of each kind, and seconds; the memory is checked."""
    script = Path(__file__).with_name("measure_find.py")
    done = subprocess.run(
        [sys.executable, script, case, str(num_units), str(MEMORY_BYTES), folder],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert 1 << 20 < figures["bytes"] < MEMORY_BYTES
    return figures["kinds"], figures["seconds"]


@pytest.mark.slow
def test_two_million_units(tmp_path: Path) -> None:
    kinds, _ = measured("mixed", 2 * MILLION, tmp_path)
    # Of the 100 000 of a part 33 333 are their own, 33 333 near one of these, and 33 334 have the texts of those of the
    # first part, where they are kept: 20 parts of the first two, 19 of the last.
    assert kinds == [20 * 33_333 + 33_334, 19 * 33_334, 20 * 33_333]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "max_seconds"), [("equal", 10), ("near", 90)])
def test_a_million_of_a_kind(tmp_path: Path, case: str, max_seconds: float) -> None:
    """All pairs of them would take days."""
    kinds, seconds = measured(case, MILLION, tmp_path)
    assert kinds == ([1, MILLION - 1, 0] if case == "equal" else [1, 0, MILLION - 1])
    assert seconds < max_seconds


@pytest.mark.slow
def test_a_million_that_are_more_or_less_near_each_other(tmp_path: Path) -> None:
    kinds, seconds = measured("noisy", MILLION, tmp_path)
    assert kinds[0] + kinds[2] == MILLION and min(kinds[0], kinds[2]) > MILLION // 10
    assert seconds < 180
