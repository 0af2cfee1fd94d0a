"""Runs drawn by Hypothesis, right and broken, through the whole program: `benchmarks/fuzz_configs.py` in small.

The same forty each time; the benchmark draws others.
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.fuzz.examples import drawn
from benchmarks.fuzz.judge import FINDING, Judge
from tests.data.store_fixture import make_small_store

NUMBER = 7
NUM_EXAMPLES = 40


@pytest.mark.distributed
@pytest.mark.slow
def test_every_run_trains_or_is_refused_in_one_line(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    findings = []
    with Judge(tmp_path, make_small_store(tmp_path / "made")) as judge:
        for example in itertools.islice(drawn(NUMBER), NUM_EXAMPLES):
            verdict = judge.judge(example)
            counts[verdict.kind.split(",")[0].split(":")[0]] += 1
            if verdict.kind == FINDING:
                findings.append(f"{example.shown()}\n{verdict.detail}")
    assert not findings, "\n\n".join(findings)
    # A fuzzer whose runs are all refused at the door says little.
    assert counts["trained"] >= NUM_EXAMPLES // 4, counts
    assert counts["refused"] >= NUM_EXAMPLES // 4, counts
