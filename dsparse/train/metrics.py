"""The record of a run, `metrics.jsonl`: a row per line, each with a `kind` and a `step` (optimizer steps).

Kinds are "train" (a step's losses, rate and speed), "heldout" (an evaluation) and "update" (a pattern update, with a
part for each weight). Names end in their unit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dsparse.files import write_whole

METRICS = "metrics.jsonl"

Row = dict[str, Any]


def read_rows(run_dir: Path) -> list[Row]:
    """All rows of a run in the order written, but for a last line cut off by a kill; none if there is no file."""
    path = run_dir / METRICS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def forget_rows_after(run_dir: Path, step: int) -> None:
    """Removes the rows of a session that went on past `step` and was cut off; 0 removes all."""
    kept = [row for row in read_rows(run_dir) if row["step"] <= step] if step else []
    write_whole(run_dir / METRICS, "".join(json.dumps(row) + "\n" for row in kept))


def adopt_rows(run_dir: Path, other: Path, step: int) -> None:
    """Begins a record with the rows of the run that this one goes on from, up to `step`."""
    rows = [row for row in read_rows(other) if row["step"] <= step]
    write_whole(run_dir / METRICS, "".join(json.dumps(row) + "\n" for row in rows))


def append_row(run_dir: Path, row: Row) -> None:
    """Adds a row at the end."""
    with (run_dir / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
