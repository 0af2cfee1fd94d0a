"""Worker processes whose results come in the order of their tasks."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NoReturn, TypeVar

from dsparse.errors import UserError

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2
"""Tasks in flight beyond one for each worker: enough that none waits, few enough that their inputs fit in memory."""


_is_interrupted = threading.Event()


def interrupt(*_: object) -> NoReturn:
    """A signal handler that does as Ctrl-C, for good: what a fork or a destructor is in swallows an exception."""
    _is_interrupted.set()
    raise KeyboardInterrupt


def raise_if_interrupted() -> None:
    """Raises what `interrupt` raised, if that was swallowed."""
    if _is_interrupted.is_set():
        raise KeyboardInterrupt


def _going_on(tasks: Iterable[T]) -> Iterator[T]:
    """The tasks, as long as nobody has interrupted."""
    for task in tasks:
        raise_if_interrupted()
        yield task


def in_order(function: Callable[[T], R], tasks: Iterable[T], *, num_workers: int) -> Iterator[R]:
    """Results of a function, computed by processes, in the order of the tasks; at most a few are in memory.

    Args:
        function: of a module, with results that can be pickled.
        tasks: read as they are needed.
        num_workers: processes; 1 computes in this one.

    Raises:
        UserError: a worker was killed; or what the function raised.
    """
    tasks = _going_on(tasks)
    # A pool starts all of its processes at once, also for the three tasks of a small corpus.
    first = list(itertools.islice(tasks, num_workers))
    num_workers = min(num_workers, len(first))
    tasks = itertools.chain(first, tasks)
    if num_workers <= 1:
        yield from map(function, tasks)
        return
    pool = ProcessPoolExecutor(num_workers, initializer=_begin_worker)
    running: deque[Future[R]] = deque()
    try:
        for task in tasks:
            running.append(pool.submit(function, task))
            if len(running) >= num_workers + _AHEAD:
                yield running.popleft().result()
        while running:
            raise_if_interrupted()
            yield running.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "Expected the worker processes to stay alive. Got one killed, most likely for want of memory; run the same "
            "command again, it goes on where it was, with fewer --workers."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    # Ctrl-C is for the main process, which ends its workers; if it is killed, they end by themselves.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The parallel part of the work is these processes; threads of a library within each would only be in the way.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    gc.freeze()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
