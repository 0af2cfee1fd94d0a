"""Pre-training as a user starts it: two ranks by DeepSpeed's launcher, stopped, killed, resumed, and read back.

Each launch costs seconds, so a few runs are made once and many tests look at them.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dsparse.train.metrics import read_rows
from tests.e2e.lab import (
    LOG_EVERY,
    PEAK,
    SAVE_EVERY,
    STEPS,
    TIMEOUT_S,
    Lab,
    assert_same_end,
    results,
)

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def straight(lab: Lab) -> tuple[Path, str]:
    """Two ranks, ZeRO 1, not interrupted: its folder and what it printed."""
    out = lab.run("straight")
    return lab.root / "straight", out


@pytest.fixture(scope="module")
def killed(lab: Lab) -> Path:
    """The same run, killed between two checkpoints and resumed."""
    lab.run_and_kill("killed", after_step=SAVE_EVERY + 2)
    lab.run("killed", "--checkpoint.resume", "auto")
    return lab.root / "killed"


def test_killed_and_resumed_ends_in_the_same_bits(straight: tuple[Path, str], killed: Path) -> None:
    assert_same_end(straight[0], killed)


def test_killed_and_resumed_leaves_the_same_record(straight: tuple[Path, str], killed: Path) -> None:
    assert results(killed) == results(straight[0])


def test_zero3_resumed_in_another_folder_ends_in_the_same_bits(lab: Lab) -> None:
    """To go on from the uninterrupted run's own earlier checkpoint is to have stopped there, and saves a launch."""
    lab.run("zero3", engine="zero3")
    earlier = lab.root / f"zero3/checkpoints/step{SAVE_EVERY}"
    lab.run("zero3_resumed", "--checkpoint.resume", str(earlier), engine="zero3")
    assert_same_end(lab.root / "zero3", lab.root / "zero3_resumed")
    assert results(lab.root / "zero3_resumed") == results(lab.root / "zero3")
    err = lab.run("zero3_resumed", "--checkpoint.resume", str(earlier), engine="zero3", expect=2)
    assert "an --output of its own" in err and "Traceback" not in err


def test_the_loss_falls_and_the_pattern_moves(straight: tuple[Path, str]) -> None:
    summary = json.loads((straight[0] / "summary.json").read_text())
    assert summary["heldout_mlm_loss_end"] < summary["heldout_mlm_loss_start"]
    assert summary["num_updates"] == 5
    assert summary["sparsity"] == pytest.approx(0.8, abs=0.01)
    assert summary["dof_covered"] > 0.25
    assert (summary["step"], summary["num_tokens"], summary["world_size"]) == (STEPS, STEPS * 16 * 128, 2)


def test_it_is_followed_in_plain_lines_and_summed_up(straight: tuple[Path, str]) -> None:
    run_dir, out = straight
    lines = out.splitlines()
    assert len([line for line in lines if line.startswith(f"step {LOG_EVERY}/{STEPS}  loss")]) == 1
    for words in (
        "threads per rank",
        "tokens/s",
        "DOF",
        "held-out MLM loss",
        "FLOPs spent",
        str(run_dir / "report.png"),
    ):
        assert any(words in line for line in lines), words
    assert "[INFO]" not in out
    assert (run_dir / "report.png").stat().st_size > 10_000


def test_tensorboard_reads_back_what_was_recorded(straight: tuple[Path, str]) -> None:
    events = read_events(straight[0])
    rows = read_rows(straight[0])
    recorded = {
        "loss/mlm": ("train", "mlm_loss"),
        "optimizer/learning_rate": ("train", "learning_rate"),
        "optimizer/gradient_norm": ("train", "gradient_norm"),
        "speed/tokens_per_s": ("train", "tokens_per_s"),
        "cost/flops": ("train", "flops"),
        "pattern/dof_covered": ("train", "dof_covered"),
        "memory/peak_host_gib": ("train", "peak_memory_gib"),
        "heldout/mlm_loss": ("heldout", "mlm_loss"),
        "pattern/turnover": ("update", "turnover"),
        "pattern/removed_new_ratio": ("update", "removed_new_ratio"),
    }
    for tag, (kind, column) in recorded.items():
        read = [(event.step, event.value) for event in events.Scalars(tag)]
        wanted = [(row["step"], row[column]) for row in rows if row["kind"] == kind and row[column] is not None]
        assert [step for step, _ in read] == [step for step, _ in wanted], tag
        assert [value for _, value in read] == pytest.approx([value for _, value in wanted], rel=1e-6), tag
    name = next(iter(next(row for row in rows if row["kind"] == "update")["weights"]))
    assert len(events.Scalars(f"sparsity/{name}")) == len(events.Scalars(f"dof_covered/{name}")) == 5


def test_tensorboard_has_pictures_of_patterns(straight: tuple[Path, str]) -> None:
    events = read_events(straight[0])
    for kind in ("active", "ever_active"):
        tag = f"{kind}/bert.encoder.layer.0.attention.self.query.weight"
        assert len(events.Images(tag)) == 4  # at the start, and at updates 1, 3 and 5
        assert events.Images(tag)[0].width == 128


@pytest.mark.parametrize("tag", ["loss/mlm", "Train/Samples/lr"])
def test_tensorboard_shows_each_step_once_after_a_kill(killed: Path, straight: tuple[Path, str], tag: str) -> None:
    """DeepSpeed's own tags too, whose steps are samples."""
    steps, wanted = ([event.step for event in read_events(run).Scalars(tag)] for run in (killed, straight[0]))
    assert steps == wanted and len(steps) == STEPS


def test_the_learning_rate_rises_and_falls_as_said(straight: tuple[Path, str]) -> None:
    """0 at the first step, the peak at the end of 4 steps of warm-up, then down to 0 after the last."""
    rates = [row["learning_rate"] for row in read_rows(straight[0]) if row["kind"] == "train"]
    expected = [PEAK * min(done / 4, (STEPS - done) / (STEPS - 4)) for done in range(STEPS)]
    assert rates == pytest.approx(expected, rel=1e-9)


def test_a_rewound_run_goes_on_from_where_it_was_rewound_to(lab: Lab, straight: tuple[Path, str]) -> None:
    """Also if it is stopped right then: record and `latest` agree at every moment."""
    run_dir = lab.root / "rewound"
    shutil.copytree(straight[0], run_dir)
    lab.run("rewound", "--checkpoint.resume", "step4", "--train.stop_at_step", "4")
    assert (run_dir / "checkpoints/latest").read_text() == "step4"
    assert max(row["step"] for row in read_rows(run_dir)) == 4
    lab.run("rewound", "--checkpoint.resume", "auto")
    assert results(run_dir) == results(straight[0])
    assert_same_end(straight[0], run_dir)


def test_two_runs_do_not_share_an_output(lab: Lab) -> None:
    """The second is refused while the first holds the folder, and the first does not notice."""
    (lab.root / "held").mkdir()
    descriptor = os.open(lab.root / "held", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        err = lab.run("held", "--train.stop_at_step", "1", ranks=1, expect=2)
    finally:
        os.close(descriptor)
    assert "no other run writes to" in err and "Traceback" not in err
    assert list((lab.root / "held").iterdir()) == []


def test_interrupted_it_saves_and_says_how_to_go_on(lab: Lab) -> None:
    process = lab.start("interrupted", ranks=1)
    try:
        while not any(row["step"] >= 2 for row in read_rows(lab.root / "interrupted")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "stopped after step" in out and "go on with the same command and --checkpoint.resume auto" in out


def test_interrupted_before_the_first_step_it_leaves_nothing(lab: Lab) -> None:
    process = lab.start("too_early", ranks=1)
    try:
        while not (lab.root / "too_early").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM, err
    assert err.count("\n") == 1 and "interrupted before the first step" in err
    assert not (lab.root / "too_early").exists()


def test_a_finished_run_is_only_summed_up_again(lab: Lab, straight: tuple[Path, str]) -> None:
    before = (straight[0] / "metrics.jsonl").read_bytes()
    out = lab.run("straight", "--checkpoint.resume", "auto")
    assert f"step {STEPS} of" not in out and "held-out MLM loss" in out
    assert (straight[0] / "metrics.jsonl").read_bytes() == before


@pytest.fixture(scope="module")
def single(lab: Lab) -> tuple[Path, Path]:
    """One process without a launcher, sparse and dense, at once: neither needs a port or a second core."""
    sparse = lab.start("alone", "--train.stop_at_step", "1", ranks=1)
    out = lab.run("dense", "--train.stop_at_step", "2", ranks=1, dense=True)
    assert "none (dense run)" in out
    assert sparse.wait(TIMEOUT_S) == 0
    sparse.communicate()
    return lab.root / "alone", lab.root / "dense"


def test_held_out_losses_do_not_depend_on_the_number_of_ranks(
    straight: tuple[Path, str], single: tuple[Path, Path]
) -> None:
    two, one = (next(row for row in read_rows(run) if row["kind"] == "heldout") for run in (straight[0], single[0]))
    for column in ("mlm_loss", "nsp_loss", "mlm_accuracy", "num_samples"):
        assert one[column] == pytest.approx(two[column], rel=1e-6)


def test_a_dense_run_has_no_patterns(single: tuple[Path, Path]) -> None:
    summary = json.loads((single[1] / "summary.json").read_text())
    assert summary["sparsity"] is None and summary["num_updates"] == 0
    assert not any(row["kind"] == "update" for row in read_rows(single[1]))


def test_two_ranks_refuse_another_run_with_one_voice(lab: Lab, straight: tuple[Path, str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in straight[0].rglob("*")}
    err = lab.run("straight", "--checkpoint.resume", "auto", "--train.steps", "48", expect=2)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in err
    assert "run.train.steps was 12, now 48" in lines[0]
    assert {path: path.stat().st_mtime_ns for path in straight[0].rglob("*")} == before


def read_events(run_dir: Path) -> EventAccumulator:
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events
