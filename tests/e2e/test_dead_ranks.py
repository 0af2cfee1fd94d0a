"""A rank that is killed, stopped or stuck: the others end in time, name it, and nothing is left running.

Each test goes on with the run that the one before has ended, from its last checkpoint.
"""

from __future__ import annotations

import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from dsparse.engine.watchdog import EXIT_CODE
from dsparse.train.config import CHECKOUT
from tests.e2e.launches import Launch, Launches

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

TIMEOUT_S = 6
# For the verdict, the launcher's look once a second, and a busy machine. A stopped process takes no signal but SIGKILL,
# which DeepSpeed's launcher sends 30 s after its SIGTERM.
MARGIN_S, LAUNCHER_KILLS_S = 20.0, 32.0
SAVE_EVERY = 4
# The launcher's code is that of the rank it finds first: of the killed one, as a shell sees -9, or of one that gave up.
KILLED = (256 - signal.SIGKILL, EXIT_CODE)
FLAGS = (
    *("--train.timeout_s", str(TIMEOUT_S)),
    *("--checkpoint.save_every", str(SAVE_EVERY)),
    *("--data.num_workers", "1"),
)

STUCK = f"""
import sys, time
sys.path.insert(0, {str(CHECKOUT)!r})
from dsparse.train import loop, pretrain

seed_step = loop.seed_step

def get_stuck(seed, *, step, rank):
    if step == STEP and rank == 1:
        time.sleep(10_000)
    seed_step(seed, step=step, rank=rank)

loop.seed_step = get_stuck
pretrain.main()
"""


def start(launches: Launches, output: str, **kwargs: Any) -> Launch:
    """Goes on from the last checkpoint of the run, which the test before has left, and gets past another one."""
    done = launches.latest(output)
    launch = launches.start(output, "--checkpoint.resume", "auto", *FLAGS, **kwargs)
    launch.wait_for_step(done + SAVE_EVERY + 1)
    assert (f"going on from {launch.output}/checkpoints/step{done}," in launch.said()) is (done > 0)
    return launch


def assert_named(launch: Launch, rank: int, pid: int, step: int, by: int = 1) -> None:
    """So many ranks say, in one line each, which rank it was and where."""
    errors = launch.errors()
    assert len(errors) == by, launch.said()
    for line in errors:
        assert f"rank {rank} on {socket.gethostname()} (pid {pid})" in line
        # The victim's last beat may be a second old; who was in step with it knows better.
        named = re.search(r"; rank \d is at step (\d+), [a-z ]+\. Training stopped", line)
        assert named is not None and step <= int(named[1]) <= launch.last_step() + 1, line
        assert "--checkpoint.resume auto" in line
    assert "Traceback" not in launch.said()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_named_at_once(launches: Launches, rank: int) -> None:
    launch = start(launches, "one")
    victim, step = launch.rank(rank), launch.last_step()
    victim.kill()
    t0_s = time.monotonic()
    assert launch.end(MARGIN_S) in KILLED, launch.said()
    assert_named(launch, rank, victim.pid, step)
    print(f"killed rank {rank}: {time.monotonic() - t0_s:.1f} s")


def test_of_three_ranks_both_others_name_the_killed_one(launches: Launches) -> None:
    """Not each other, though they end one after the other."""
    launch = start(launches, "three", ranks=3)
    victim, step = launch.rank(1), launch.last_step()
    victim.kill()
    assert launch.end(MARGIN_S) in KILLED, launch.said()
    assert_named(launch, 1, victim.pid, step, by=2)


def test_a_stopped_rank_is_given_up(launches: Launches) -> None:
    """Rank 0, which holds the store, in one run, and another rank in a second one, to wait for both at once."""
    runs = []
    for rank, output in enumerate(("one", "two")):
        launch = start(launches, output)
        victim, step = launch.rank(rank), launch.last_step()
        other = launch.rank(1 - rank)
        victim.suspend()
        runs.append((launch, rank, victim, other, step, time.monotonic()))
    for launch, rank, victim, other, step, t0_s in runs:
        other.wait(max(0.1, t0_s + TIMEOUT_S + MARGIN_S - time.monotonic()))
        print(f"stopped rank {rank}: the other ended within {time.monotonic() - t0_s:.1f} s")
        assert_named(launch, rank, victim.pid, step)
    for launch, *_, t0_s in runs:
        limit_s = TIMEOUT_S + MARGIN_S + LAUNCHER_KILLS_S
        assert launch.end(max(0.1, t0_s + limit_s - time.monotonic())) == EXIT_CODE
        print(f"the launcher within {time.monotonic() - t0_s:.1f} s")


def test_a_run_that_is_suspended_as_a_whole_goes_on(launches: Launches) -> None:
    """As by Ctrl-Z, or with its machine: nobody is to blame for silence that all kept."""
    launch = start(launches, "one")
    ranks = [launch.rank(0), launch.rank(1)]
    for one in ranks:
        one.suspend()
    time.sleep(TIMEOUT_S + 3)
    for one in ranks:
        one.resume()
    launch.wait_for_step(launch.last_step() + 10)
    time.sleep(2)  # in which a verdict would come
    ranks[0].terminate()
    assert launch.end(60) == 0, launch.said()
    assert launch.errors() == []


def test_a_rank_that_lost_a_worker_says_so_through_the_others(launches: Launches) -> None:
    """The launcher may end the rank itself before it has spoken."""
    launch = start(launches, "one")
    (worker,) = launch.rank(1).children()
    worker.kill()
    assert launch.end(MARGIN_S) in (2, EXIT_CODE), launch.said()
    assert any(f"DataLoader worker (pid {worker.pid}) is killed" in line for line in launch.errors())
    assert "Traceback" not in launch.said()


def test_a_stuck_rank_is_given_up_by_itself_too(launches: Launches, tmp_path: Path) -> None:
    script = tmp_path / "stuck.py"
    script.write_text(STUCK.replace("STEP", str(launches.latest("one") + SAVE_EVERY + 2)))
    launch = start(launches, "one", script=script)
    victim, step = launch.rank(1), launch.last_step()
    t0_s = time.monotonic()
    assert launch.end(TIMEOUT_S + MARGIN_S) == EXIT_CODE, launch.said()
    assert_named(launch, 1, victim.pid, step, by=2)
    print(f"stuck: {time.monotonic() - t0_s:.1f} s")
    done = launches.latest("one")
    launches.resume("one", until=done + 1)
