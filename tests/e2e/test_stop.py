"""Asked to stop: by a signal to one rank, to the launcher, to all; twice; by the end of the launcher.

What is printed, the exit codes, the checkpoint, and that nothing is left running.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable

import psutil
import pytest

from dsparse.train.launcher import is_gone
from dsparse.train.stop import SAME_REQUEST_S
from tests.e2e.lab import assert_same_end, results
from tests.e2e.launches import START_S, Launch, Launches

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

END_S = 60.0


def to_one_rank(launch: Launch) -> None:
    launch.rank(1).send_signal(signal.SIGUSR1)


def to_launch_py(launch: Launch) -> None:
    launch.launcher().send_signal(signal.SIGTERM)


def to_the_foreground(launch: Launch) -> None:
    """What Ctrl-C at a terminal does."""
    os.killpg(launch.process.pid, signal.SIGINT)


def launcher_killed(launch: Launch) -> None:
    launch.launcher().kill()


def runner_killed(launch: Launch) -> None:
    launch.process.kill()


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (to_one_rank, 0),
        # DeepSpeed's launch.py passes the signal on, waits for its ranks, and ends with 1 whatever they ended with.
        (to_launch_py, 1),
        # Its runner takes no care of Ctrl-C, and Python ends it by that signal.
        (to_the_foreground, -signal.SIGINT),
        # The runner takes a launch.py that was killed for one that ended well.
        (launcher_killed, 0),
        (runner_killed, -signal.SIGKILL),
    ],
)
def test_asked_to_stop_it_saves_and_leaves_nobody(launches: Launches, ask: Callable[[Launch], None], code: int) -> None:
    output = ask.__name__
    launch = launches.start(output, "--data.num_workers", "1")
    launch.wait_for_step(3)
    assert len(launch.workers()) == 2
    ask(launch)
    assert launch.end(END_S) == code, launch.said()
    said = [line for line in launch.said().splitlines() if "go on" in line]
    assert len(said) == 1, launch.said()
    assert f"stopped after step {launches.latest(output)} of 2000, as asked" in said[0]
    assert "--checkpoint.resume auto" in said[0] and launch.errors() == []
    assert "Traceback" not in launch.said() or ask is to_the_foreground  # the runner's own


def test_stopped_and_resumed_ends_in_the_same_bits(launches: Launches) -> None:
    """By the run that one rank of was asked, which the test above has left."""
    stopped_at = launches.latest("to_one_rank")
    until = stopped_at + 3
    launches.resume("to_one_rank", until=until)
    straight = launches.start("straight", "--train.stop_at_step", str(until))
    assert straight.end(START_S) == 0, straight.said()
    one, other = (launches.root / name for name in ("to_one_rank", "straight"))
    assert_same_end(one, other, step=until)
    assert results(one) == results(other)


def test_asked_twice_a_rank_ends_at_once_though_it_waits_for_another(launches: Launches) -> None:
    launch = launches.start("twice")
    launch.wait_for_step(2)
    patient, asked = launch.rank(0), launch.rank(1)
    patient.suspend()
    asked.terminate()
    time.sleep(SAME_REQUEST_S + 0.5)
    assert asked.is_running() and asked.status() != psutil.STATUS_ZOMBIE
    asked.terminate()
    launch.wait_until(lambda: is_gone(asked), 10)
    patient.resume()
    assert launch.end(END_S) == 128 + signal.SIGTERM
    assert [f"rank 1 on {socket.gethostname()} (pid {asked.pid}) has ended" in line for line in launch.errors()] == [
        True
    ]
