"""Killed at any moment, or with a disk that is full, and run again: the same bytes as undisturbed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.data_prep.corpus_fixture import ROOT, command, content, prepared, write_sources

# Dies when it is about to rename for the given time, or has just done so; everything that is written comes into being
# by a rename.
_DIE_AT = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
at, after = int(sys.argv[2]), sys.argv[3] == "after"
count, replace = 0, os.replace
def counted(*arguments, **options):
    global count
    count += 1
    if count == at and not after:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*arguments, **options)
    if count == at and after:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = counted
from data_prep import prepare
prepare.main(sys.argv[4:])
print("renames", count)
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_sources(tmp_path_factory.mktemp("interrupted") / "sources")


@pytest.fixture(scope="module")
def undisturbed(sources: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    done = prepared(sources, store, "--workers", "2")
    assert (done.returncode, done.stderr) == (0, "")
    return content(store)


def die_at(number: int, when: str, sources: list[str], out: Path) -> subprocess.CompletedProcess[str]:
    arguments = command(sources, out, "--workers", "1")[2:]
    script = [sys.executable, "-c", _DIE_AT, str(ROOT), str(number), when, *arguments]
    return subprocess.run(script, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_killed_at_every_tenth_rename(sources: list[str], undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    whole = die_at(-1, "before", sources, tmp_path / "whole")
    assert whole.returncode == 0 and content(tmp_path / "whole") == undisturbed
    num_renames = int(whole.stdout.split()[-1])
    assert num_renames > 40
    for number in range(1, num_renames + 1, 10):
        when = "after" if number % 4 == 1 else "before"
        store = tmp_path / str(number)
        assert die_at(number, when, sources, store).returncode == -signal.SIGKILL, number
        assert not store.exists() or content(store) == undisturbed, number
        done = prepared(sources, store, "--workers", "2")
        assert (done.returncode, done.stderr) == (0, ""), number
        assert content(store) == undisturbed, number


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_again_and_again(
    sources: list[str], undisturbed: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    """Also while it repairs what the kill before has left; the whole group of processes, or one worker alone."""
    chance = random.Random(seed)
    t0_s = time.monotonic()
    assert prepared(sources, tmp_path / "other", "--workers", "2").returncode == 0
    whole_s = time.monotonic() - t0_s
    num_kills = 0
    while num_kills < 6:
        process = subprocess.Popen(
            command(sources, tmp_path / "store", "--workers", "2"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            process.wait(timeout=chance.uniform(0.1, 0.9) * whole_s)
        except subprocess.TimeoutExpired:
            num_kills += 1
            workers = psutil.Process(process.pid).children()
            if seed % 2 and workers:
                workers[0].kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        _, said = process.communicate()
        assert "Traceback" not in said
        if process.returncode == 0:
            # It was done before it was killed: from the beginning, and killed sooner.
            assert content(tmp_path / "store") == undisturbed
            shutil.rmtree(tmp_path / "store")
            shutil.rmtree(tmp_path / "store.work")
            whole_s *= 0.7
    assert prepared(sources, tmp_path / "store", "--workers", "2").returncode == 0
    assert content(tmp_path / "store") == undisturbed


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_how_to_go_on(
    sources: list[str], undisturbed: dict[str, bytes], tmp_path: Path, kind: signal.Signals
) -> None:
    process = subprocess.Popen(
        command(sources, tmp_path / "store", "--workers", "2"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline_s = time.monotonic() + 60
    while not (tmp_path / "store.work" / "extract").exists():
        assert process.poll() is None and time.monotonic() < deadline_s
        time.sleep(0.005)
    process.send_signal(kind)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.endswith("interrupted; the same command goes on where this one was\n")
    while has_processes(process.pid):  # workers too
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    assert not (tmp_path / "store").exists()
    assert prepared(sources, tmp_path / "store").returncode == 0
    assert content(tmp_path / "store") == undisturbed


def has_processes(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that grows when told: `mount -o remount,size=`."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs to mount a small tmpfs, which only root may: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_told_and_room_is_all_it_needs(
    sources: list[str], undisturbed: dict[str, bytes], small_disk: Path
) -> None:
    """Grown step by step, the disk is full in one stage after the other."""
    stopped_in = set()
    for size_kb in (40, 80, 120, 180, 260, 360, 480, 620, 800, 1000, 4000):
        subprocess.run(["mount", "-o", f"remount,size={size_kb}k", str(small_disk)], check=True)
        done = prepared(sources, small_disk / "store", "--workers", "2")
        if done.returncode == 0:
            break
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "No space left on device" in done.stderr
        stopped_in.add(done.stdout.count("\n"))
    assert len(stopped_in) >= 3
    assert content(small_disk / "store") == undisturbed
