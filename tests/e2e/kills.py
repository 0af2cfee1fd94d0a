"""Killing a run again and again: at fault points inside a save, and at moments drawn from a seed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from dsparse.checkpoint import folder
from dsparse.checkpoint.manifest import Manifest
from dsparse.faults import POINTS, VARIABLE
from dsparse.train.metrics import read_rows
from tests.e2e.lab import TIMEOUT_S, Lab

MARK = "DSPARSE_TEST_RUN"
"""Environment variable by which every process of a run is found, whoever its parent is."""


@dataclass(frozen=True)
class Kill:
    """When and whom."""

    victim: str
    """"rank 0", "rank 1", "launcher"."""
    point: str | None = None
    """Fault point of a save, of which this is the second in the session; None kills at a moment."""
    delay_s: float = 0.0
    """After the first step of the session has been logged."""

    def __str__(self) -> str:
        where = f"at {self.point}" if self.point else f"{self.delay_s:.2f} s after a step"
        return f"{self.victim} {where}"


def draw_kills(num_kills: int, seed: int) -> Iterator[Kill]:
    """Every other one inside a save, the points in turn, each on the rank that comes to it."""
    generator = random.Random(seed)
    points = [point for point in POINTS if point != "save.prune"]
    for index in range(num_kills):
        if index % 2 == 0:
            point = points[index // 2 % len(points)]
            either = point in ("save.begin", "save.write")
            yield Kill(f"rank {generator.randrange(2) if either else 0}", point)
        else:
            yield Kill(generator.choice(["rank 0", "rank 1", "launcher"]), None, generator.uniform(0, 0.6))


def run_and_kill(lab: Lab, output: str, kill: Kill, *flags: str) -> int:
    """Starts or resumes a run, kills one of its processes, and waits until none of it is left.

    Returns:
        The number of steps of the checkpoint that can be gone on from, whose every byte has been compared; 0 if none.
    """
    mark = f"{output}-{time.monotonic_ns()}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", MARK: mark}
    if kill.point is not None:
        arrival = 7 if kill.point == "save.write" else 2
        environment[VARIABLE] = f"{kill.victim.removeprefix('rank ')}:{kill.point}:{arrival}"
    before = len(read_rows(lab.root / output))
    command = lab.command(output, "--checkpoint.resume", "auto", *flags)
    with open(lab.root / f"{output}.log", "ab") as log:
        process = subprocess.Popen(
            command, cwd=lab.root, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        if kill.point is None:
            _await(lambda: len(read_rows(lab.root / output)) > before or process.poll() is not None)
            time.sleep(kill.delay_s)
            victim = process.pid if kill.victim == "launcher" else _rank(mark, int(kill.victim[-1]))
            if victim is not None:
                os.kill(victim, signal.SIGKILL)
        process.wait(TIMEOUT_S)
        _await(lambda: not processes_of(mark))
    finally:
        for left in processes_of(mark):
            left.kill()
    root = lab.root / output / "checkpoints"
    tag = folder.latest_tag(root) if root.is_dir() else None
    if tag is None:
        return 0
    place = root / folder.locate(root, tag)
    manifest = Manifest.read(place)
    assert manifest.problems(place) == [], f"after killing {kill}"
    return int(manifest.about["global_steps"])


def processes_of(mark: str) -> list[psutil.Process]:
    """Every living process of a run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def _rank(mark: str, rank: int) -> int | None:
    for process in processes_of(mark):
        try:
            if process.environ().get("RANK") == str(rank):
                return int(process.pid)
        except psutil.Error:
            continue
    return None


def _await(holds: object, timeout_s: float = TIMEOUT_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline_s, "waited too long"
        time.sleep(0.05)


def log_of(lab: Lab, output: str) -> str:
    """What all sessions of a run have printed."""
    return Path(lab.root / f"{output}.log").read_text(errors="replace")
