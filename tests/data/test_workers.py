"""Worker processes leave signals to their rank, end when it says so, and die with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest

from dsparse.data.workers import find_lost_worker, live_and_die_with_the_rank

RANK = """
import os, sys, time
from dsparse.data.workers import live_and_die_with_the_rank
worker = os.fork()
if worker == 0:
    live_and_die_with_the_rank(0)
    print(os.getpid(), flush=True)
    time.sleep(600)
time.sleep(600)
"""


@pytest.fixture
def worker() -> Callable[[], int]:
    def start() -> int:
        pid = os.fork()
        if pid == 0:
            live_and_die_with_the_rank(0)
            time.sleep(600)
            os._exit(9)
        time.sleep(0.5)  # until it has said what it ignores
        return pid

    return start


def test_signals_from_others_are_for_the_rank(worker: Callable[[], int]) -> None:
    pid = worker()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        subprocess.run(["kill", f"-{signum}", str(pid)], check=True)
    time.sleep(0.3)
    assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    os.kill(pid, signal.SIGTERM)  # by this process, for which it works
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_worker_ends_with_its_rank() -> None:
    rank = subprocess.Popen([sys.executable, "-c", RANK], stdout=subprocess.PIPE, text=True)
    assert rank.stdout is not None
    worker = psutil.Process(int(rank.stdout.readline()))
    rank.stdout.close()
    rank.kill()
    rank.wait()
    worker.wait(10)


def test_a_lost_worker_is_known_behind_other_errors() -> None:
    lost = RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")
    other = ConnectionResetError("reset by peer")
    assert find_lost_worker(other) is None
    other.__context__ = lost
    assert find_lost_worker(other) == "DataLoader worker (pid 12) is killed by signal: Killed"
