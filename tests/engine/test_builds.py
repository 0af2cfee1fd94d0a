"""A lock that a killed build left behind is not waited for without end; one that is held is waited for."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dsparse.engine import builds
from dsparse.engine.builds import await_builds

HOLD = """
import os, sys, time
os.open(sys.argv[1], os.O_CREAT | os.O_EXCL)  # as torch's builder does
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(params=["", "py311_cpu"])
def lock(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    path = tmp_path / request.param / "deepspeed_shm_comm" / "lock"
    path.parent.mkdir(parents=True)
    return path


def make_old(path: Path) -> None:
    os.utime(path, (time.time() - 3600,) * 2)


def test_without_a_lock_it_returns(lock: Path) -> None:
    await_builds(may_remove=True)


def test_a_lock_of_a_killed_build_is_removed(lock: Path, caplog: pytest.LogCaptureFixture) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    holder.kill()
    holder.communicate()
    assert lock.exists()
    make_old(lock)
    with caplog.at_level(logging.WARNING):
        await_builds(may_remove=True)
    assert not lock.exists()
    assert str(lock) in caplog.text


def test_a_lock_that_is_held_is_waited_for(lock: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    make_old(lock)
    waiter = threading.Thread(target=await_builds, kwargs={"may_remove": True}, daemon=True)
    waiter.start()
    waiter.join(timeout=1.5)
    assert waiter.is_alive() and lock.exists()
    lock.unlink()
    holder.kill()
    holder.communicate()
    waiter.join(timeout=10)
    assert not waiter.is_alive()


def test_a_young_lock_that_nobody_here_holds_is_given_time(
    lock: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builds, "_SECONDS_BEFORE_A_WORD", 0.3)
    lock.touch()
    t0_s = time.monotonic()
    with caplog.at_level(logging.WARNING):
        await_builds(may_remove=True, slow_build_s=1.5)
    assert 1.0 < time.monotonic() - t0_s < 30
    assert not lock.exists()
    assert "which no process here holds" in caplog.text


def test_only_one_process_of_a_machine_removes(lock: Path) -> None:
    lock.touch()
    make_old(lock)
    waiter = threading.Thread(target=await_builds, kwargs={"may_remove": False}, daemon=True)
    waiter.start()
    waiter.join(timeout=1)
    assert waiter.is_alive() and lock.exists()
    lock.unlink()
    waiter.join(timeout=10)
    assert not waiter.is_alive()
