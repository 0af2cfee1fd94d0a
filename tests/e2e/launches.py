"""Runs of `launch/pretrain.py` under DeepSpeed's launcher that are signalled, killed and counted.

Every process of a run carries a mark in its environment, by which the test finds them all, whoever their parent is.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dsparse.train.config import CHECKOUT

MARK = "DSPARSE_TEST_RUN"
SCRIPT = CHECKOUT / "launch/pretrain.py"
START_S = 150.0
"""The most a run may take to its first steps: this machine may be busy."""


@dataclass
class Launch:
    """A run that was started."""

    output: Path
    process: subprocess.Popen[str]
    mark: str
    log: Path
    started_s: float = field(default_factory=time.monotonic)

    def processes(self) -> Iterator[psutil.Process]:
        """Every living process of the run: runner, launcher, ranks, workers."""
        for one in psutil.process_iter():
            try:
                if one.status() != psutil.STATUS_ZOMBIE and one.environ().get(MARK) == self.mark:
                    yield one
            except psutil.Error:
                continue

    def rank(self, number: int) -> psutil.Process:
        """The process of a rank."""
        ranks = [one for one in self.processes() if one.environ().get("RANK") == str(number)]
        # A DataLoader's worker has its rank's command line and environment, and is its child.
        return min(ranks, key=lambda one: len([parent for parent in one.parents() if parent in ranks]))

    def workers(self) -> list[psutil.Process]:
        """Children of ranks."""
        return [child for number in range(2) for child in self.rank(number).children()]

    def launcher(self) -> psutil.Process:
        """DeepSpeed's launch.py, the parent of the ranks."""
        return next(one for one in self.processes() if "deepspeed.launcher.launch" in one.cmdline())

    def wait_for_step(self, step: int) -> None:
        """Returns when this launch has shown a step."""
        self.wait_until(lambda: self.last_step() >= step, START_S)

    def last_step(self) -> int:
        """The last training step that this launch has shown, 0 before the first."""
        return max(map(int, re.findall(r"^step (\d+)/\d+  loss", self.said(), re.MULTILINE)), default=0)

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Returns when something holds; fails when the run ends first or it takes too long."""
        deadline_s = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline_s, self.said()
            time.sleep(0.02)

    def end(self, seconds: float) -> int:
        """The launcher's exit code, which must come within so many seconds, and no process of the run be left."""
        deadline_s = time.monotonic() + seconds
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {seconds} s: {list(self.processes())}\n{self.said()}") from None
        while left := list(self.processes()):
            assert time.monotonic() < deadline_s, f"left over: {left}\n{self.said()}"
            time.sleep(0.05)
        return code

    def said(self) -> str:
        """Everything the run printed."""
        return self.log.read_text()

    def errors(self) -> list[str]:
        """Lines in which a rank says why it ended."""
        return [line for line in self.said().splitlines() if line.startswith("error: ")]

    def kill(self) -> None:
        """Ends whatever is left."""
        for one in self.processes():
            one.kill()
        self.process.wait()


@dataclass(frozen=True)
class Launches:
    """A store, a folder for runs, and how to start them."""

    root: Path
    free_port: Callable[[], int]
    started: list[Launch] = field(default_factory=list)

    def start(self, output: str, *flags: str, ranks: int = 2, script: Path = SCRIPT, steps: int = 2000) -> Launch:
        """Starts a run of many small steps in a process group of its own."""
        config = json.loads((CHECKOUT / "ds_configs/zero1.json").read_text())
        config["dynamic_sparsity"] |= {"updates": 6, "sparsity": 0.8}
        path = self.root / "zero1.json"
        path.write_text(json.dumps(config))
        settings = {
            "config": CHECKOUT / "launch/presets/tiny.yaml",
            "deepspeed_config": path,
            "data.store": self.root / "store",
            "data.seq_length": 32,
            "output": self.root / output,
            "model.dropout": 0.1,
            "train.steps": steps,
            "train.learning_rate": 1e-3,
            "train.warmup_steps": 4,
            "train.global_batch_size": 2 * ranks,
            "train.micro_batch_size": 2,
            "train.log_every": 1,
            "train.eval_samples": 4,
            "monitor.tensorboard": False,
        }
        typed = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
        deepspeed = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", str(ranks)]
        launcher = [*deepspeed, "--log_level", "warning", "--master_port", str(self.free_port())]
        mark = uuid.uuid4().hex
        log = self.root / f"{mark}.log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                [*launcher, str(script), *typed, *flags],
                cwd=self.root,
                env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", MARK: mark},
                start_new_session=True,
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
            )
        launch = Launch(self.root / output, process, mark, log)
        self.started.append(launch)
        return launch

    def latest(self, output: str) -> int:
        """Step of the checkpoint that a run would go on from, 0 without one."""
        pointer = self.root / output / "checkpoints/latest"
        return int(pointer.read_text().removeprefix("step")) if pointer.is_file() else 0

    def resume(self, output: str, *flags: str, steps: int = 2000, until: int) -> None:
        """Goes on from the last checkpoint until a step."""
        launch = self.start(
            output, "--checkpoint.resume", "auto", "--train.stop_at_step", str(until), *flags, steps=steps
        )
        assert launch.end(START_S) == 0, launch.said()
        assert self.latest(output) == until

    def close(self) -> None:
        """Ends what a failed test has left."""
        for launch in self.started:
            launch.kill()
