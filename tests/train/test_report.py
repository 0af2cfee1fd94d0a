"""Summary, closing lines and figure, drawn from a run's rows alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import torch

from dsparse.errors import UserError
from dsparse.train.pictures import MAX_SIDE_PX, picture_of_blocks
from dsparse.train.report import closing_lines, summarise, write_report

RECORD = {"run": {"model": {"preset": "tiny"}, "train": {"steps": 40}}, "world_size": 2}


def make_run(run_dir: Path, *, is_sparse: bool = True) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(0, 41, 10):
        share = 0.1 + step / 100
        rows.append({"kind": "heldout", "step": step, "mlm_loss": 7 - step / 10, "nsp_loss": 0.7, "mlm_accuracy": 0.1})
        if step:
            rows.append(
                {
                    "kind": "train", "step": step, "loss": 7.5, "mlm_loss": 6.9, "nsp_loss": 0.6, "wall_s": 61.0 + step,
                    "flops": 1e9 * step, "num_tokens": 4096 * step, "num_updates": 3 if is_sparse else 0,
                    "sparsity": 0.9 if is_sparse else None, "dof_covered": share if is_sparse else None,
                    "peak_memory_gib": 0.5,
                }
            )  # fmt: skip
        if is_sparse and step:
            rows.append({"kind": "update", "step": step, "turnover": 0.4, "removed_new_ratio": None})
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run_dir / "run.json").write_text(json.dumps(RECORD))
    return rows


def test_the_summary_takes_first_and_last(tmp_path: Path) -> None:
    summary = summarise(make_run(tmp_path), RECORD)
    assert (summary["heldout_mlm_loss_start"], summary["heldout_mlm_loss_end"]) == (7.0, 3.0)
    assert (summary["step"], summary["steps"], summary["num_updates"]) == (40, 40, 3)
    assert (summary["sparsity"], summary["dof_covered"], summary["flops"]) == (0.9, 0.5, 4e10)


def test_the_closing_lines_say_all_that_was_promised(tmp_path: Path) -> None:
    summary = summarise(make_run(tmp_path), RECORD)
    assert "tensorboard" not in closing_lines(summary, tmp_path)
    (tmp_path / "tensorboard").mkdir()
    text = closing_lines(summary, tmp_path)
    for words in (
        "7.0000 at start, 3.0000 at the end",
        "90.00%",
        "50.00%",
        "4e+10",
        "1 min 41 s",
        f"tensorboard --logdir {tmp_path / 'tensorboard'}",
        str(tmp_path / "report.png"),
    ):
        assert words in text


@pytest.mark.parametrize("is_sparse", [True, False])
def test_the_figure_is_a_picture_with_something_in_it(tmp_path: Path, is_sparse: bool) -> None:
    make_run(tmp_path, is_sparse=is_sparse)
    text = write_report(tmp_path)
    pixels = matplotlib.image.imread(tmp_path / "report.png")
    assert pixels.shape[1] == 1200
    assert pixels.shape[0] == (1200 if is_sparse else 675)
    assert len({tuple(colour) for colour in pixels.reshape(-1, pixels.shape[-1])[::7].tolist()}) > 20
    assert ("none (dense run)" in text) != is_sparse
    assert json.loads((tmp_path / "summary.json").read_text())["step"] == 40


def test_a_run_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        write_report(tmp_path)


def test_report_can_be_run_by_itself(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    command = [sys.executable, "-m", "dsparse.train.report"]
    done = subprocess.run([*command, str(tmp_path / "run")], capture_output=True, text=True)
    assert done.returncode == 0 and "held-out MLM loss" in done.stdout
    wrong = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: Expected a folder that pretrain.py wrote.") and wrong.stderr.count("\n") == 1


def test_a_picture_is_dark_where_blocks_are() -> None:
    blocks_RC = torch.tensor([[True, False], [False, False]])
    picture = picture_of_blocks(blocks_RC)
    assert picture.shape == (1, 128, 128)
    assert (picture[0, :64, :64] == 0).all()
    assert (picture[0, 64:] == 255).all() and (picture[0, :, 64:] == 255).all()


def test_a_large_picture_is_capped_in_proportion_and_keeps_its_mean() -> None:
    blocks_RC = torch.zeros(2048, 1024, dtype=torch.bool)
    blocks_RC[::2] = True
    picture = picture_of_blocks(blocks_RC)
    assert picture.shape == (1, MAX_SIDE_PX, MAX_SIDE_PX // 2)
    assert (picture == 128).all()
