"""Who is to blame when ranks do not go on, from what they said last."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest
from torch.distributed import DistNetworkError

from dsparse.engine.heartbeat import Beat, End, Heard, find_culprits, is_of_a_lost_rank, this_place
from dsparse.errors import UserError

TIMEOUT_S = 30.0


def heard(
    rank: int,
    *,
    silent_s: float = 0.5,
    still_s: float = 0.0,
    waits: bool = False,
    num_marks: int = 100,
    may_take_s: float = 0.0,
    end: End = "",
) -> Heard:
    beat = Beat(
        rank=rank, host="node7", place="node7 pid:[1]", pid=4000 + rank, started_s=1.0, number=9, doing="forward",
        step=7, num_marks=num_marks, still_s=still_s, may_take_s=may_take_s, waits=waits, end=end,
    )  # fmt: skip
    return Heard(beat, silent_s)


STUCK_S = TIMEOUT_S + 1


@pytest.mark.parametrize(
    ("ranks", "blamed"),
    [
        ([heard(0), heard(1), heard(2)], []),
        # Silence is blamed first: whoever waits for the silent one is stuck because of it.
        ([heard(0, still_s=STUCK_S, waits=True), heard(1, silent_s=STUCK_S), heard(2)], [1]),
        ([heard(0, still_s=STUCK_S), heard(1, silent_s=STUCK_S), heard(2, silent_s=STUCK_S)], [1, 2]),
        # Ranks that left in good order are not missed.
        ([heard(0), heard(1, silent_s=STUCK_S, end="done"), heard(2, still_s=STUCK_S, end="done")], []),
        ([heard(0, still_s=STUCK_S, waits=True), heard(1, still_s=STUCK_S), heard(2)], [1]),
        # Nobody is stuck: the one that is waited for moves, if slowly.
        ([heard(0, still_s=STUCK_S, waits=True), heard(1, still_s=3.0, num_marks=90), heard(2)], []),
        # On a GPU a rank waits where its stack does not say so: the one furthest behind is to blame.
        ([heard(0, still_s=STUCK_S), heard(1, still_s=STUCK_S, num_marks=99), heard(2, still_s=STUCK_S)], [1]),
        ([heard(0, still_s=STUCK_S), heard(1, still_s=3.0, num_marks=99), heard(2, still_s=STUCK_S)], []),
        # The one furthest behind may wait for one that is ahead.
        ([heard(0, still_s=STUCK_S, waits=True, num_marks=99), heard(1, still_s=STUCK_S)], [1]),
        # All wait for each other.
        ([heard(0, still_s=STUCK_S, waits=True), heard(1, still_s=STUCK_S, waits=True, num_marks=98)], [1]),
        # A long phase has its own limit, which is no limit on silence.
        ([heard(0, still_s=STUCK_S, may_take_s=600.0), heard(1)], []),
        ([heard(0, still_s=601.0, may_take_s=600.0), heard(1)], [0]),
        ([heard(0, silent_s=STUCK_S, may_take_s=600.0), heard(1)], [0]),
        # What it does counts on while no beat comes.
        ([heard(0, still_s=STUCK_S - 5, silent_s=6.0), heard(1)], [0]),
    ],
)
def test_who_is_to_blame(ranks: list[Heard], blamed: list[int]) -> None:
    phrases = find_culprits({one.beat.rank: one for one in ranks}, TIMEOUT_S)
    assert len(phrases) == len(blamed)
    for rank, phrase in zip(blamed, phrases, strict=True):
        assert f"rank {rank} on node7 (pid {4000 + rank})" in phrase and "step 7, forward" in phrase


def test_after_an_error_a_shorter_silence_is_enough() -> None:
    ranks = {0: heard(0, still_s=20.0), 1: heard(1, silent_s=6.0)}
    assert find_culprits(ranks, TIMEOUT_S) == []
    assert "rank 1 on node7" in find_culprits(ranks, TIMEOUT_S, silence_s=5.0)[0]


def test_a_beat_arrives_as_it_was_sent() -> None:
    beat = heard(3, end="failed").beat
    assert Beat.from_json(beat.to_json().encode()) == beat


def beat_of(pid: int, started_s: float) -> Beat:
    return Beat(
        rank=0, host="here", place=this_place(), pid=pid, started_s=started_s, number=1, doing="forward", step=1,
        num_marks=1, still_s=0.0, may_take_s=0.0, waits=False,
    )  # fmt: skip


def test_a_process_is_gone_when_it_ended_waited_for_or_not_and_when_its_number_is_another() -> None:
    assert not beat_of(os.getpid(), psutil.Process().create_time()).is_gone()
    assert beat_of(os.getpid(), 1.0).is_gone()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    beat = beat_of(child.pid, psutil.Process(child.pid).create_time())
    assert not beat.is_gone()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    assert beat.is_gone()
    child.communicate()
    assert beat.is_gone()


def wrapped(error: Exception) -> Exception:
    try:
        try:
            raise error
        except Exception as caught:
            raise UserError("Expected to be able to write the checkpoint.") from caught
    except UserError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.1]:2712"), True),
        (DistNetworkError("The client socket has timed out after 30000ms"), True),
        (RuntimeError("CUDA out of memory"), False),
        (RuntimeError("[enforce fail at inline_container.cc:672] file write failed"), False),
        (ValueError("timed out"), False),
    ],
)
def test_an_error_of_a_collective_is_known_however_it_was_wrapped(error: Exception, is_one: bool) -> None:
    assert is_of_a_lost_rank(error) is is_one
    assert is_of_a_lost_rank(wrapped(error)) is is_one
