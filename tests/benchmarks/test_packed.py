"""The benchmarks of the packed layout in small: that they run, and that their figures are what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.training import paired_ratio, verdict
from dsparse.train.config import CHECKOUT

TINY = ["--size", "tiny", "--batch", "2", "--kernel", "reference"]


def figures(tmp_path: Path, script: str, *flags: str) -> tuple[dict[str, Any], str]:
    """The JSON that a script writes, and what it prints."""
    path = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, str(CHECKOUT / "benchmarks" / script), *TINY, *flags, "--json", str(path)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "DS_ACCELERATOR": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text()), done.stdout


@pytest.mark.slow
def test_a_step_is_timed_and_taken_apart(tmp_path: Path) -> None:
    found, printed = figures(tmp_path, "step.py", "--steps", "2", "--blocks", "16", "4", "--split")
    assert [(row["layout"], row["block"]) for row in found["rows"]] == [("packed", 16), ("packed", 4)]
    for row in found["rows"]:
        assert row["times_faster"] > 0
    parts = found["splits"][0]["ms"]
    assert "sparse products" not in parts["dense"]
    for name in ("packed 16", "packed 4"):
        assert parts[name]["sparse products"] > 0
    for kinds in parts.values():
        assert min(kinds[kind] for kind in ("attention", "layer norm", "GELU", "optimizer", "clipping")) > 0
    assert "| tiny | 0.9 | packed 4×4 |" in printed


@pytest.mark.slow
@pytest.mark.distributed
def test_a_step_is_timed_through_the_engine(tmp_path: Path) -> None:
    found, _ = figures(tmp_path, "step.py", "--steps", "2", "--blocks", "16", "--engine")
    assert [(row["layout"], row["block"]) for row in found["rows"]] == [("masked", 16), ("packed", 16)]


@pytest.mark.slow
def test_memory_of_the_weights_follows_the_density(tmp_path: Path) -> None:
    found, printed = figures(tmp_path, "memory.py", "--sparsity", "0.75", "--blocks", "16")
    dense, packed = found["bytes"]["dense"], found["bytes"]["packed 16"]
    # Two layers of 128: four matrices of 128 by 128 and two of 128 by 512 in each, in fp32.
    num_weights = 2 * (4 * 128 * 128 + 2 * 128 * 512)
    for what, copies in (("parameters", 1), ("gradients", 1), ("moments", 2)):
        assert dense[f"{what} of sparse weights"] == 4 * copies * num_weights
        assert packed[f"{what} of sparse weights"] == copies * num_weights  # a quarter
        assert packed[f"{what} of the rest"] == dense[f"{what} of the rest"]
    assert dense["orders of blocks"] == 0 < packed["orders of blocks"] < 0.05 * num_weights
    assert dense["kept from forward to backward"] == pytest.approx(packed["kept from forward to backward"], rel=0.05)
    assert "| parameters of sparse weights | 1.5 | 0.4 | 0.250 | ≤ 0.28 | met |" in printed


@pytest.mark.slow
@pytest.mark.distributed
def test_what_is_sent_and_saved_follows_the_density(tmp_path: Path) -> None:
    found, _ = figures(tmp_path, "memory.py", "--blocks", "16", "--engine")
    dense, packed = found["bytes"]["dense"], found["bytes"]["packed 16"]
    missing = 4 * 0.9 * 2 * (4 * 128 * 128 + 2 * 128 * 512)
    assert dense["reduced in a step"] - packed["reduced in a step"] == pytest.approx(missing, rel=0.01)
    assert packed["checkpoint"] < dense["checkpoint"]


@pytest.mark.slow
@pytest.mark.distributed
def test_updates_are_timed(tmp_path: Path) -> None:
    found, printed = figures(tmp_path, "update.py", "--steps", "2", "--blocks", "16", "1")
    assert [(row["block"], row["goal"]) for row in found["rows"]] == [(16, 0.2), (1, 1.0)]
    for row in found["rows"]:
        assert row["ratio"] == pytest.approx(row["update_ms"] / row["step_ms"]) and row["update_ms"] > 0
    assert "| 1×1 |" in printed


def test_ratios_are_of_pairs_and_verdicts_of_goals() -> None:
    assert paired_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == 2.0
    assert verdict(2.9, 2.8, at_least=True) == "| ≥ 2.8 | met |"
    assert verdict(0.3, 0.2, at_least=False) == "| ≤ 0.2 | missed |"
    assert verdict(1.0, None, at_least=True) == "| | |"
