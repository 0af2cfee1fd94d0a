"""The record of a run: nothing twice, nothing torn."""

from __future__ import annotations

from pathlib import Path

from dsparse.train.metrics import METRICS, append_row, forget_rows_after, read_rows


def make_rows(run_dir: Path, *steps: int) -> None:
    for step in steps:
        append_row(run_dir, {"kind": "train", "step": step})


def steps_of(run_dir: Path) -> list[int]:
    return [row["step"] for row in read_rows(run_dir)]


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    assert read_rows(tmp_path) == []
    make_rows(tmp_path, 1, 2, 2, 3)
    assert steps_of(tmp_path) == [1, 2, 2, 3]


def test_a_line_cut_off_by_a_kill_is_no_row(tmp_path: Path) -> None:
    make_rows(tmp_path, 1, 2)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"kind": "train", "step": 3')
    assert steps_of(tmp_path) == [1, 2]
    forget_rows_after(tmp_path, 2)
    make_rows(tmp_path, 3)
    assert steps_of(tmp_path) == [1, 2, 3]


def test_rows_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    make_rows(tmp_path, 0, 5, 10, 11, 15)
    forget_rows_after(tmp_path, 10)
    assert steps_of(tmp_path) == [0, 5, 10]
    assert [path.name for path in tmp_path.iterdir()] == [METRICS]


def test_a_fresh_start_forgets_everything(tmp_path: Path) -> None:
    make_rows(tmp_path, 0, 5)
    forget_rows_after(tmp_path, 0)
    assert steps_of(tmp_path) == []
