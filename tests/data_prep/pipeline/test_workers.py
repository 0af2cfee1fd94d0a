"""Results come in order, a few at a time, from any number of workers; a worker that dies is told of."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from data_prep.pipeline import workers
from data_prep.pipeline.workers import in_order
from dsparse.errors import UserError


def slow_first(number: int) -> int:
    time.sleep(0.2 if number == 0 else 0)
    return number * number


def die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuse(number: int) -> int:
    if number == 2:
        raise UserError("bad input in place 2")
    return number


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_in_order(num_workers: int) -> None:
    assert list(in_order(slow_first, range(20), num_workers=num_workers)) == [n * n for n in range(20)]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_tasks_are_read_as_they_are_needed(num_workers: int) -> None:
    taken = []

    def tasks() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = in_order(slow_first, tasks(), num_workers=num_workers)
    assert next(results) == 0
    assert len(taken) <= num_workers + 3
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_errors_come_in_their_place(num_workers: int) -> None:
    got = []
    with pytest.raises(UserError, match="place 2"):
        for result in in_order(refuse, range(10), num_workers=num_workers):
            got.append(result)
    assert got == [0, 1]


def test_a_worker_that_is_killed() -> None:
    with pytest.raises(UserError, match="goes on where it was"):
        list(in_order(die, range(20), num_workers=2))


def test_an_interruption_that_was_swallowed_still_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_is_interrupted", threading.Event())
    results = in_order(slow_first, range(20), num_workers=2)
    assert next(results) == 0
    with pytest.raises(KeyboardInterrupt):
        workers.interrupt()
    with pytest.raises(KeyboardInterrupt):
        list(results)
