"""The kernel benchmark in small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dsparse.kernels import cpu
from dsparse.train.config import CHECKOUT


def run(json_path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    if not cpu.is_available()[0]:
        pytest.skip(cpu.is_available()[1])
    command = [sys.executable, "benchmarks/kernels.py", "--backend", "cpu", "--layers", "128x64", "--tokens", "40"]
    return subprocess.run(
        [*command, "--rounds", "1", "--json", str(json_path), *flags],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_table_and_json(tmp_path: Path) -> None:
    done = run(tmp_path / "kernels.json", "--blocks", "1", "8", "--sparsities", "0.75", "0.9")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "kernels.json").read_text())
    assert (figures["backend"], figures["tokens"], figures["dtype"]) == ("cpu", 40, "fp32")
    rows = {(row["block"], row["sparsity"], row["by"]): row for row in figures["rows"]}
    for block, peer in ((1, "torch CSR"), (8, "torch BSR")):
        for sparsity in (0.75, 0.9):
            packed = rows[block, sparsity, "packed"]
            assert packed["ms"].keys() == {"forward", "input gradient", "weight gradient", "all"}
            assert min(packed["ms"].values()) > 0 and min(packed["ratios"].values()) > 0
            assert rows[block, sparsity, "dense"]["ratios"]["all"] == 1
            assert "forward" in rows[block, sparsity, peer]["ms"]
    assert "weight gradient" not in rows[8, 0.9, "torch BSR"]["ms"]
    assert "| 1×1 | 0.9 | 128x64 | packed |" in done.stdout and "| 4.5 |" in done.stdout


@pytest.mark.slow
def test_crossover(tmp_path: Path) -> None:
    done = run(tmp_path / "kernels.json", "--blocks", "4", "--crossover", "--dtype", "bf16")
    assert done.returncode == 0, done.stderr
    crossovers = json.loads((tmp_path / "kernels.json").read_text())["crossovers"]
    assert crossovers.keys() == {"4"} and (crossovers["4"] is None or 0 < crossovers["4"] < 1)
    assert "| 4×4 |" in done.stdout
