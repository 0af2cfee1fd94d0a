"""The benchmark of the Triton kernels on shapes so small that the interpreter can run it, and its verdicts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.kernels_gpu import PRODUCTS, Row

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/kernels_gpu.py", *arguments]
    paths = {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **paths, **environment}, capture_output=True, text=True)


@pytest.mark.slow
def test_smoke(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    figures_file = tmp_path / "figures.json"
    done = run(
        *("--smoke", "--bias", "--rounds", "1", "--blocks", "32", "--sparsities", "0.75", "0.9"),
        *("--json", str(figures_file)),
        TRITON_INTERPRET="1",
        CUDA_VISIBLE_DEVICES="",
    )
    assert done.returncode == 0, done.stderr
    assert "64 tokens, with bias" in done.stdout
    assert done.stdout.count("| 256×128 | 32×32 |") == 2
    rows = json.loads(figures_file.read_text())["rows"]
    assert [row["sparsity"] for row in rows] == [0.75, 0.9]
    assert all(row["dense_ms"].keys() == row["sparse_ms"].keys() == set(PRODUCTS) for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = run(TRITON_INTERPRET="0")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Expected a GPU that the Triton kernels run on. Got none: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("sparse_ms", "limit", "block", "sparsity", "verdict"),
    [
        (0.5, 8.0, 64, 0.9, "≥ 6: met"),
        (2.0, 8.0, 64, 0.9, "≥ 6: missed"),
        (2.0, 3.0, 64, 0.9, "≥ 6: missed, above the limit"),
        (2.0, 8.0, 64, 0.75, ""),
        (2.0, 8.0, 16, 0.9, ""),
    ],
)
def test_verdicts(sparse_ms: float, limit: float, block: int, sparsity: float, verdict: str) -> None:
    row = Row(
        shape=(3072, 768),
        block=block,
        sparsity=sparsity,
        dense_ms=dict.fromkeys(PRODUCTS, 4.0),
        sparse_ms=dict.fromkeys(PRODUCTS, sparse_ms),
        others_ms={"BSR": 2.0},
        limit=limit,
    )
    assert row.verdict == verdict
    speedup, sparse_sum_ms = f"{4 / sparse_ms:.2f}", f"{3 * sparse_ms:.3f}"
    cells = ["3072×768", f"{block}×{block}", f"{sparsity:g}", speedup, speedup, speedup, f"{sparse_sum_ms} (12.000)"]
    cells += [f"**{speedup}**", f"{limit:.2f}", "", "2.00", verdict]
    assert str(row) == f"| {' | '.join(cells)} |"
