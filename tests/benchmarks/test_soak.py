"""The soak benchmark in small, and that it would say so if something were wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.soak import RankReport, problems_of
from dsparse.train.config import CHECKOUT


@pytest.mark.distributed
@pytest.mark.slow
def test_a_short_soak_updates_and_keeps_the_invariant(tmp_path: Path) -> None:
    command = [sys.executable, str(CHECKOUT / "benchmarks/soak.py"), "--steps", "400", "--updates", "40"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "soak.json")],
        capture_output=True, text=True, timeout=300, env={**os.environ, "DS_ACCELERATOR": "cpu"},
    )  # fmt: skip
    figures = json.loads((tmp_path / "soak.json").read_text())
    for report in figures["ranks"]:
        assert report["error"] is None, done.stderr
        assert (report["num_updates"], report["num_verified"]) == (40, 20)
        # A process this young still grows a little; twenty thousand steps are what the benchmark is for.
        for quarters in report["memory_mib"].values():
            assert quarters[-1] < 1.1 * quarters[0], figures
    assert done.returncode == bool(figures["problems"])
    assert "| 1 | 40 updates, verified 20 times |" in done.stdout


def report(*, last_mib: float = 100.0, num_updates: int = 3, error: str | None = None) -> RankReport:
    memory = {"RSS": [100.0, 100.0, 100.0, last_mib]}
    return RankReport(memory_mib=memory, step_ms=[1.0] * 4, num_updates=num_updates, num_verified=1, error=error)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (report(last_mib=103.0), "rank 1: RSS grew from 100.0 to 103.0 MiB"),
        (report(num_updates=2), "rank 1: 2 pattern updates, expected 3"),
        (report(error="InvariantError: x"), "rank 1: InvariantError: x"),
    ],
    ids=["memory", "updates", "invariant"],
)
def test_what_is_wrong_is_said(odd: RankReport, words: str) -> None:
    assert problems_of([report(last_mib=101.0), report()], 3) == []
    (problem,) = problems_of([report(), odd], 3)
    assert problem.startswith(words)
