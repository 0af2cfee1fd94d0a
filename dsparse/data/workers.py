"""Processes that build batches ahead: they live and die with the rank they work for.

A launcher that stops a run signals a rank and all its children. The rank wants to save first, and needs its workers for
the step it is in; so they leave signals to it. And when it is killed they must not stay.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def live_and_die_with_the_rank(worker: int) -> None:
    """For a DataLoader's `worker_init_fn`: only the rank itself ends this process, and its end does.

    Args:
        worker: number of the worker, not used.
    """
    for signum in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    # The rank may read its signals from a pipe, which this process has inherited.
    signal.set_wakeup_fd(-1)
    rank = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_told_by, args=(rank,), daemon=True).start()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_when_told_by(rank: int) -> None:
    """multiprocessing ends daemons by SIGTERM and then waits for them: from the rank itself it must work."""
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == rank:
            os._exit(0)


def find_lost_worker(error: BaseException | None) -> str | None:
    """What torch says of a worker that died, if that is what an error comes from; None if not."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
            return " ".join(str(error).split()).rstrip(".")
        error = error.__cause__ or error.__context__
    return None
