"""What a person sees of a long step: a live bar on a terminal, a plain line every few seconds anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 5.0

Advance = Callable[[int], None]


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """Follows one step.

    Args:
        what: the step, as a person would say it.
        total: of whatever `advance` counts.

    Yields:
        advance, to be called with how much was done since the last call.
    """
    with _bar(what, total) if sys.stdout.isatty() else _lines(what, total) as advance:
        yield advance


@contextmanager
def _bar(what: str, total: int) -> Iterator[Advance]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(what, total=max(total, 1))
        yield lambda amount: bar.advance(task, amount)


@contextmanager
def _lines(what: str, total: int) -> Iterator[Advance]:
    done, told_s = 0, time.monotonic()

    def advance(amount: int) -> None:
        nonlocal done, told_s
        done += amount
        if time.monotonic() - told_s >= SECONDS_BETWEEN_LINES:
            told_s = time.monotonic()
            print(f"{what}: {min(done / max(total, 1), 1):.0%}", flush=True)

    yield advance
