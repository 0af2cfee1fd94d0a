"""`make demo` as a newcomer lives it: the whole way, stopped in the middle, taken up again, run once more."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS = 100
LIMIT_S = 240.0


def demo_command(where: Path, *extra: str) -> list[str]:
    places = ["--store", str(where / "store"), "--output", str(where / "run")]
    text = ["--source", f"text:{where / 'text'}", "--vocab-size", "400"]
    return [sys.executable, "launch/demo.py", *places, *text, "--steps", str(STEPS), *extra]


def run_demo(where: Path) -> str:
    done = subprocess.run(demo_command(where), cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_text(folder: Path) -> None:
    """Sixty documents of thirty sentences, of four hundred words that follow Zipf's law."""
    words = random.Random(0)
    letters = "aeioulnrstdm"
    vocabulary = ["".join(words.choices(letters, k=words.randint(2, 8))) for _ in range(400)]
    weights = [1 / (rank + 1) for rank in range(len(vocabulary))]
    folder.mkdir()
    for document in range(60):
        sentences = [" ".join(words.choices(vocabulary, weights, k=words.randint(6, 18))) for _ in range(30)]
        text = " ".join(f"{sentence.capitalize()}." for sentence in sentences)
        (folder / f"{document:02}.txt").write_text(text + "\n", encoding="utf-8")


def stop_after_first_checkpoint(where: Path) -> tuple[int, str]:
    """Ctrl-C in the terminal: an interrupt to the demo and to all it started, once there is something to go on from."""
    process = subprocess.Popen(
        demo_command(where),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + LIMIT_S
    while not (where / "run" / "checkpoints" / "latest").is_file() and process.poll() is None:
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


@pytest.mark.distributed
@pytest.mark.slow
def test_stopped_taken_up_and_finished(tmp_path: Path) -> None:
    write_text(tmp_path / "text")

    code, output = stop_after_first_checkpoint(tmp_path)
    assert code != 0, output
    assert "1 of 3: text, vocabulary and token store" in output
    assert "the same command goes on from the last checkpoint" in output
    assert not (tmp_path / "run" / "summary.json").exists()
    manifest = (tmp_path / "store" / "manifest.json").read_bytes()

    output = run_demo(tmp_path)
    assert f"{tmp_path / 'store'} is complete" in output
    assert "on from the last checkpoint" in output
    for line in (
        "held-out MLM loss",
        "sparsity",
        "DOF covered",
        "pattern updates",
        "FLOPs spent",
        "tensorboard --logdir",
        "time per step: packed",
    ):
        assert line in output, output
    figure = tmp_path / "run" / "report.png"
    assert str(figure) in output
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "store" / "manifest.json").read_bytes() == manifest

    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = run_demo(tmp_path)
    assert "is finished. Its report:" in again
    assert "held-out MLM loss" in again
    assert "time per step: packed" in again
    assert "pretrain.py" not in again
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics


def test_too_few_steps_are_refused(tmp_path: Path) -> None:
    command = demo_command(tmp_path, "--steps", "5")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: Expected --steps of at least 100. Got 5.\n"
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_fails_ends_the_demo_with_its_message(tmp_path: Path) -> None:
    """No text: preparing says so in one line, training is not begun, nothing is left."""
    (tmp_path / "text").mkdir()
    done = subprocess.run(demo_command(tmp_path), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")], done.stderr
    assert "Traceback" not in done.stderr
    assert "2 of 3" not in done.stdout
    assert not (tmp_path / "run").exists()
