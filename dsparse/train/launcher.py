"""The processes whose end leaves a rank alone: its launcher, and the one that started DeepSpeed's.

A shell is none of them: a run started without a launcher outlives its terminal if it is told to (nohup).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import psutil

_LAUNCHERS = ("deepspeed", "torchrun", "torch.distributed.run", "torch.distributed.launch", "accelerate")


def find_launchers() -> list[psutil.Process]:
    """This process's parent if it is a launcher, and that one's parent if it is one too."""
    found: list[psutil.Process] = []
    if "RANK" not in os.environ:
        return found
    try:
        process = psutil.Process().parent()
        while process is not None and len(found) < 2 and is_launcher(process.cmdline()):
            found.append(process)
            process = process.parent()
    except psutil.Error:
        pass
    return found


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended, its place taken by another or not."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def is_launcher(command_line: Sequence[str]) -> bool:
    """By the program's name, or python's -m: a shell that merely has the name in its script is none."""
    words = command_line[:5]
    modules = [after for word, after in itertools.pairwise(words) if word == "-m"]
    names = {Path(word).name for word in words[:2]} | set(modules)
    return any(name in _LAUNCHERS or name.startswith("deepspeed.launcher.") for name in names)
