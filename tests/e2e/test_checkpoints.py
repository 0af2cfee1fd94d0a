"""Checkpoints in a user's hands: damaged, moved to other ranks, converted, looked at from a shell."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dsparse.checkpoint.patterns import load_state
from dsparse.layout.packed import pack
from dsparse.train.config import CHECKOUT
from tests.e2e.lab import STEPS, Lab, assert_same_end, results

pytestmark = pytest.mark.distributed

# Dropout is drawn anew on each rank, so only without it a run does not depend on their number.
FLAGS = ["--model.dropout=0", "--checkpoint.keep=3", "--checkpoint.keep_every=4", "--train.eval_every=0"]


@pytest.fixture(scope="module")
def straight(lab: Lab) -> Path:
    """Two ranks at ZeRO stage 1, with checkpoints at steps 4, 8 and 12."""
    lab.run("straight", *FLAGS)
    return lab.root / "straight"


def cut_off(lab: Lab, straight: Path, output: str, *, after: int) -> Path:
    """A copy of the run as it was after a step."""
    copy = Path(shutil.copytree(straight, lab.root / output))
    for folder in (copy / "checkpoints").glob("step*"):
        if int(folder.name.removeprefix("step")) > after:
            shutil.rmtree(folder)
    (copy / "checkpoints/latest").write_text(f"step{after}")
    return copy


def dsparse(*arguments: str | Path, expect: int = 0) -> str:
    """Runs the command and returns what it printed."""
    command = [str(Path(sys.executable).with_name("dsparse")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def losses(run_dir: Path) -> list[float]:
    """Training losses by step."""
    return [row["loss"] for row in results(run_dir) if row["kind"] == "train"]


@pytest.mark.parametrize(("ranks", "engine"), [(1, "zero3"), (2, "zero0")])
def test_a_run_goes_on_with_other_ranks_and_another_stage(lab: Lab, straight: Path, ranks: int, engine: str) -> None:
    output = f"elastic_{ranks}_{engine}"
    copy = cut_off(lab, straight, output, after=8)
    lab.run(output, "--checkpoint.resume", "auto", *FLAGS, ranks=ranks, engine=engine)
    # Sums over ranks are in another order.
    assert losses(copy) == pytest.approx(losses(straight), rel=1e-5)
    now, then = (dsparse("checkpoint", "inspect", "--json", one) for one in (copy, straight))
    assert json.loads(now)["patterns"] == json.loads(then)["patterns"]
    assert json.loads(now)["data_position"] == json.loads(then)["data_position"]


def test_a_converted_checkpoint_goes_on_in_the_same_bits(lab: Lab, straight: Path) -> None:
    copy = cut_off(lab, straight, "before_conversion", after=8)
    said = dsparse("checkpoint", "convert", copy, "--out", lab.root / "converted")
    converted = lab.root / "converted/step8"
    assert str(converted) in said
    assert "any ranks and ZeRO stage" in dsparse("checkpoint", "inspect", converted)
    lab.run("after_conversion", "--checkpoint.resume", str(converted), *FLAGS)
    assert_same_end(straight, lab.root / "after_conversion")


def test_converted_weights_are_those_of_deepspeeds_own_conversion(lab: Lab, straight: Path) -> None:
    dsparse("checkpoint", "convert", straight, "--out", lab.root / "ours")
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", str(straight / f"checkpoints/step{STEPS}")]
    command += ["--output_folder", str(lab.root / "theirs"), "--num_extract_workers", "1", "--num_merge_workers", "1"]
    subprocess.run(command, check=True, capture_output=True)
    theirs, ours = lab.root / "theirs/zero", lab.root / f"ours/step{STEPS}/zero"
    paths = sorted(ours.glob("*/*.pt"))
    assert len(paths) > 100
    histories, num_packed = load_state(ours.parent).histories, 0
    for path in paths:
        one, other = (_tensor(torch.load(p, weights_only=True)) for p in (path, theirs / path.relative_to(ours)))
        if path.parent.name in histories and one.dim() == 2:  # theirs are the blocks as the run has stored them
            one, num_packed = pack(one, histories[path.parent.name].pattern), num_packed + 1
        assert one.dtype == other.dtype and torch.equal(one, other), path
    assert num_packed == 3 * len(histories)
    # Theirs has a weight that is used in two places twice.
    more = {path.name for path in theirs.iterdir() if path.is_dir()} - {path.name for path in ours.iterdir()}
    assert more == {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}


def _tensor(content: Any) -> torch.Tensor:
    return content["param"] if isinstance(content, dict) else content


def test_damage_is_said_and_last_good_goes_on(lab: Lab, straight: Path) -> None:
    copy = cut_off(lab, straight, "damaged", after=8)
    victim = copy / "checkpoints/step8/zero_pp_rank_1_mp_rank_00_optim_states.pt"
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    assert f"DAMAGED  {victim.parent}" in dsparse("checkpoint", "verify", copy, expect=1)
    said = lab.run("damaged", "--checkpoint.resume", "auto", *FLAGS, expect=2)
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert str(victim) in line and "checksum" in line and "step4 is whole" in line and "last-good" in line
    lab.run("damaged", "--checkpoint.resume", "last-good", *FLAGS)
    assert_same_end(straight, copy)
    assert results(copy) == results(straight)
    assert "DAMAGED" not in dsparse("checkpoint", "verify", copy)


def test_a_shell_shows_what_a_checkpoint_is_of(straight: Path) -> None:
    said = dsparse("checkpoint", "inspect", straight)
    for fact in ("steps          12", "2 ranks at ZeRO stage 1", "192 samples", "12 weights, 5 updates", "deepspeed"):
        assert fact in said
    tokenizer = json.loads((straight / "run.json").read_text())["store"]["tokenizer.json"]
    assert tokenizer in said
    assert dsparse("checkpoint", "verify", straight).count("whole") == 3


@pytest.mark.parametrize("command", [["inspect"], ["verify"], ["convert", "--out", "x"]])
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, command: list[str]) -> None:
    said = dsparse("checkpoint", *command, tmp_path / "nothing", expect=2)
    assert said.startswith("error: Expected") and said.count("\n") == 1


def test_the_command_runs_without_deepspeed(straight: Path) -> None:
    script = (
        "import sys; from dsparse.cli.main import main\n"
        f"try: main(['checkpoint', 'verify', {str(straight)!r}])\n"
        "except SystemExit as end: print(end.code, 'deepspeed' in sys.modules, 'torch.distributed.run' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert done.stdout.splitlines()[-1] == "0 False False"
