"""The benchmarks of the loader in small: that they run, and that their figures are what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.windows import filled_in_turn
from dsparse.train.config import CHECKOUT


@pytest.mark.slow
def test_loaders_are_measured_against_training(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    flags = ["--size", "tiny", "--batch", "2", "--rounds", "1", "--documents", "1000", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(CHECKOUT / "benchmarks/loader.py"), *flags, "--json", str(path)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "DS_ACCELERATOR": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert [row["seq_length"] for row in found["rows"]] == [128] * 4 + [512] * 4
    loaders = [row for row in found["rows"] if row["times_training"] is not None]
    trainings = [row for row in found["rows"] if row["times_training"] is None]
    assert len(loaders) == len(trainings) == 4
    for row in loaders:
        fastest = max(one["tokens_per_s"] for one in trainings if one["seq_length"] == row["seq_length"])
        assert row["times_training"] == pytest.approx(row["tokens_per_s"] / fastest)
        assert f"| {row['seq_length']} | {row['what']} | {row['tokens_per_s']:,.0f} |" in done.stdout
    assert [row["num_tokens"] for row in found["huge"]] == [500_000, 500_000]
    assert list(tmp_path.iterdir()) == [path]


def test_windows_filled_in_turn() -> None:
    # 4 + 4 reach 8; 9 + 1, because two are needed; 5 + 3 + 3, for the last would be alone. One sentence has none.
    lengths = [4, 4, 9, 1, 5, 3, 3, 50]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    assert filled_in_turn(np.asarray([0, 7, 8]), offsets, 8).tolist() == [[0, 2, 4], [2, 4, 7]]
