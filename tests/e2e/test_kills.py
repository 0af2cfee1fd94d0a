"""SIGKILL of any rank at any moment, inside a save too: the run goes on and ends in the bits of one never killed.

One run is killed eight times, so each resume goes on from the state that the kill before it has left.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.kills import draw_kills, run_and_kill
from tests.e2e.lab import Lab, assert_same_end, results

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

STEPS = 40
FLAGS = [f"--train.steps={STEPS}", "--checkpoint.save_every=2", "--train.eval_every=0", "--checkpoint.keep=2"]


def test_killed_eight_times_it_ends_in_the_same_bits(lab: Lab) -> None:
    lab.run("straight", *FLAGS)
    steps = [0]
    for kill in draw_kills(8, seed=1):
        steps.append(run_and_kill(lab, "killed", kill, *FLAGS))
        assert steps[-1] >= steps[-2], f"{kill}: {steps}"
        assert steps[-1] < STEPS, f"the run ended before it was killed: {kill}"
    assert steps[-1] > 0
    lab.run("killed", "--checkpoint.resume", "auto", *FLAGS)
    assert_same_end(lab.root / "straight", lab.root / "killed", step=STEPS)
    assert results(lab.root / "killed") == results(lab.root / "straight")
    # Nothing half-written is left, and no more than is to be kept.
    left = {path.name for path in Path(lab.root / "killed/checkpoints").iterdir() if path.is_dir()}
    assert left == {f"step{STEPS - 2}", f"step{STEPS}"}
