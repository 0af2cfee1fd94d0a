"""A rank that is killed, stopped or stuck: the others end in time, name it, and nothing is left running."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsparse.train.config import CHECKOUT
from tests.data.store_fixture import make_small_store
from tests.e2e.launches import Launches
from tests.e2e.test_pretrain import find_free_port

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

TIMEOUT_S = 6
# A stopped process takes no signal but SIGKILL, which DeepSpeed's launcher sends 30 s after its SIGTERM.
MARGIN_S, LAUNCHER_KILLS_S = 10.0, 32.0
FLAGS = ("--train.timeout_s", str(TIMEOUT_S), "--checkpoint.save_every", "4", "--data.num_workers", "1")

STUCK = f"""
import sys, time
sys.path.insert(0, {str(CHECKOUT)!r})
from dsparse.train import loop, pretrain

seed_step = loop.seed_step

def stuck_at_six(seed, *, step, rank):
    if step == 6 and rank == 1:
        time.sleep(10_000)
    seed_step(seed, step=step, rank=rank)

loop.seed_step = stuck_at_six
pretrain.main()
"""


@pytest.fixture(scope="module")
def launches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launches]:
    root = tmp_path_factory.mktemp("dead")
    make_small_store(root / "store")
    made = Launches(root, find_free_port)
    yield made
    made.close()


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_kill(launches: Launches, how: signal.Signals, rank: int) -> None:
    output = f"{how.name}{rank}"
    launch = launches.start(output, *FLAGS)
    launch.wait_for_step(5)
    pid = launch.rank(rank).pid
    t0 = time.monotonic()
    launch.rank(rank).send_signal(how)
    code = launch.end(100)
    print(output, code, time.monotonic() - t0, "\n".join(launch.errors()), "\n", launch.said()[-700:])


def test_stuck(launches: Launches, tmp_path: Path) -> None:
    script = tmp_path / "stuck.py"
    script.write_text(STUCK)
    launch = launches.start("stuck", *FLAGS, script=script)
    launch.wait_for_step(5)
    t0 = time.monotonic()
    code = launch.end(100)
    print("stuck", code, time.monotonic() - t0, "\n".join(launch.errors()), "\n", launch.said()[-700:])
