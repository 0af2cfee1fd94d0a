"""How tests start pre-training as a user does, end it before its time, and compare what two runs have left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dsparse.checkpoint.manifest import MANIFEST
from dsparse.engine.checkpoint_files import read_data
from dsparse.train.config import CHECKOUT
from dsparse.train.metrics import read_rows

STEPS, SAVE_EVERY, LOG_EVERY = 12, 4, 1
PEAK = 2.0e-3
DEEPSPEED = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", "2", "--log_level", "warning"]
TIMEOUT_S = 180


@dataclass(frozen=True)
class Lab:
    """A store, a folder for runs, and how to start them."""

    root: Path
    free_port: Callable[[], int]

    def command(
        self, output: str, *flags: str, ranks: int = 2, engine: str = "zero1", dense: bool = False
    ) -> list[str]:
        """What a user types, with a JSON of few updates."""
        config = json.loads((CHECKOUT / f"ds_configs/{engine}.json").read_text())
        config["dynamic_sparsity"] |= {"updates": 6, "sparsity": 0.8}
        if dense:
            del config["dynamic_sparsity"]
        path = self.root / f"{engine}{'_dense' if dense else ''}.json"
        path.write_text(json.dumps(config))
        launcher = [sys.executable] if ranks == 1 else [*DEEPSPEED, "--master_port", str(self.free_port())]
        settings = {
            "config": CHECKOUT / "launch/presets/tiny.yaml",
            "deepspeed_config": path,
            "data.store": self.root / "store",
            "output": self.root / output,
            "model.dropout": 0.1,
            "train.steps": STEPS,
            "train.learning_rate": PEAK,
            "train.warmup_steps": 4,
            "train.global_batch_size": 16,
            "train.micro_batch_size": 4,
            "train.log_every": LOG_EVERY,
            "train.eval_every": 6,
            "train.eval_samples": 20,
            "checkpoint.save_every": SAVE_EVERY,
            "monitor.pattern_every": 2,
        }
        typed = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
        return [*launcher, str(CHECKOUT / "launch/pretrain.py"), *typed, *flags]

    def start(self, *args: Any, **kwargs: Any) -> subprocess.Popen[str]:
        """Starts a run in a session of its own, so that it can be killed as a whole."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(  # type: ignore[call-overload]
            self.command(*args, **kwargs), cwd=self.root, env=environment, start_new_session=True, **pipes
        )

    def run(self, output: str, *flags: str, expect: int = 0, **kwargs: Any) -> str:
        """Runs to the end and returns stdout."""
        process = self.start(output, *flags, **kwargs)
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert process.returncode == expect, out + err
        return out if expect == 0 else err

    def run_and_kill(self, output: str, *, after_step: int, **kwargs: Any) -> None:
        """Kills the run without warning as soon as it has logged a step."""
        process = self.start(output, **kwargs)
        deadline_s = time.monotonic() + TIMEOUT_S
        try:
            while not any(row["step"] >= after_step for row in read_rows(self.root / output)):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline_s
                time.sleep(0.02)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def find_free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two checkpoints differ, bit for bit; times and places of a run are left out."""
    if where.endswith(("/output_path", "/wall_s", "/loss_scaler", "/dsparse_record")):
        return []
    if isinstance(one, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [where]
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        return [found for key in one for found in differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, list | tuple):
        assert len(one) == len(other), where
        return [
            found for i, pair in enumerate(zip(one, other, strict=True)) for found in differences(*pair, f"{where}/{i}")
        ]
    return [] if one == other else [where]


def assert_same_end(one: Path, other: Path, *, step: int = STEPS) -> None:
    """Weights, optimizer, schedule, patterns and data position are bit-identical in two runs' checkpoints of a step."""
    num_tensor_files = 0
    for path in sorted((one / f"checkpoints/step{step}").iterdir()):
        twin = other / f"checkpoints/step{step}" / path.name
        if path.suffix == ".pt":
            num_tensor_files += 1
            saved = [read_data(each) for each in (path, twin)]
            assert differences(*saved) == [], path.name
        elif path.name != MANIFEST:  # which has the time in it
            assert path.read_bytes() == twin.read_bytes(), path.name
    assert num_tensor_files >= 3


def results(run_dir: Path) -> list[dict[str, Any]]:
    """Rows without what depends on the clock."""
    timed = ("time", "wall_s", "tokens_per_s", "flops_per_s", "duration_s", "peak_memory_gib")
    return [{key: value for key, value in row.items() if key not in timed} for row in read_rows(run_dir)]
