"""A run whose losses are no numbers any more: it says so, stops by itself, and leaves the checkpoints alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dsparse.checkpoint import folder
from dsparse.train.metrics import read_rows
from tests.e2e.lab import Lab

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize(("ranks", "engine", "dense"), [(2, "zero1", False), (1, "zero0", False), (1, "zero0", True)])
def test_it_stops_after_so_many_steps(lab: Lab, ranks: int, engine: str, dense: bool) -> None:
    output = f"{engine}_{ranks}_{dense}"
    flags = ["--train.learning_rate=1e30", "--train.max_skipped_steps=3", "--checkpoint.save_every=1"]
    said = lab.run(output, *flags, "--train.eval_every=0", ranks=ranks, engine=engine, dense=dense, expect=2)
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert "3 steps in a row" in line and "Traceback" not in said
    rows = [row for row in read_rows(lab.root / output) if row["kind"] == "train"]
    skipped = [row["step"] for row in rows if row["loss"] is None]
    assert skipped and skipped == list(range(skipped[0], rows[-1]["step"] + 1))
    assert "NaN" not in Path(lab.root / output / "metrics.jsonl").read_text()
    # No checkpoint after the last step that was applied, and every one there is whole.
    root = lab.root / output / "checkpoints"
    assert folder.tags(root) == list(folder.good_tags(root))
    assert folder.latest_tag(root) == f"step{skipped[0] - 1}"
    record = json.loads((lab.root / output / "run.json").read_text())
    assert record["run"]["train"]["max_skipped_steps"] == 3
