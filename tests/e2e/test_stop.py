"""Asked to stop: by a signal to one rank, to the launcher, to all; twice; by the end of the launcher.

What is printed, the exit codes, the checkpoint, and that nothing is left running.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.data.store_fixture import make_small_store
from tests.e2e.launches import Launch, Launches
from tests.e2e.test_pretrain import find_free_port

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

END_S = 60.0


@pytest.fixture(scope="module")
def launches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launches]:
    root = tmp_path_factory.mktemp("stop")
    make_small_store(root / "store")
    made = Launches(root, find_free_port)
    yield made
    made.close()


def to_one_rank(launch: Launch) -> None:
    launch.rank(1).send_signal(signal.SIGTERM)


def to_launch_py(launch: Launch) -> None:
    launch.launcher().send_signal(signal.SIGTERM)


def to_the_foreground(launch: Launch) -> None:
    """What Ctrl-C at a terminal does."""
    os.killpg(launch.process.pid, signal.SIGINT)


def to_all_ranks(launch: Launch) -> None:
    for rank in (0, 1):
        launch.rank(rank).send_signal(signal.SIGUSR1)


def to_nobody_but_the_launcher_is_killed(launch: Launch) -> None:
    launch.launcher().kill()


def to_nobody_but_the_runner_is_killed(launch: Launch) -> None:
    launch.process.kill()


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (to_one_rank, 0),
        (to_launch_py, 1),
        (to_the_foreground, -2),
        (to_all_ranks, 0),
        (to_nobody_but_the_launcher_is_killed, 0),
        (to_nobody_but_the_runner_is_killed, -9),
    ],
)
def test_asked_to_stop_it_saves(launches: Launches, ask: Callable[[Launch], None], code: int) -> None:
    output = ask.__name__
    launch = launches.start(output, "--data.num_workers", "1")
    launch.wait_for_step(3)
    assert len(launch.workers()) == 2
    t0 = time.monotonic()
    ask(launch)
    got = launch.end(END_S)
    print(ask.__name__, got, time.monotonic() - t0, launch.said()[-1500:])
    assert got == code
    said = [line for line in launch.said().splitlines() if "go on" in line]
    assert len(said) == 1 and f"stopped after step {launches.latest(output)} of 2000, as asked" in said[0]
