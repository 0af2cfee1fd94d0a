"""No rank waits for ever for another: one that died, stopped or got stuck is named, and all the others end.

A collective gives no sign when a peer does not come. So each rank has a thread that tells the others through the
process group's rendezvous store, about once a second, what its main thread is doing. Rank 0 reads all; the others read
rank 0 and its verdict. Nothing is asked of the accelerator, and no collective is made.

A call to the store can hang with the machine it is on. So a second thread looks at the clock alone.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psutil
import torch

from dsparse.engine.activity import activity, waits_for_others
from dsparse.engine.heartbeat import Beat, End, Heard, find_culprits, is_of_a_lost_rank, this_place

EXIT_CODE = 3
"""Of a process that ended because another rank did not go on."""
HOW_TO_GO_ON = "Training stopped; go on from the last checkpoint with --checkpoint.resume auto."

_PREFIX = "dsparse/watchdog"
_GRACE_S = 2.0  # for what looks like an error and may be the end of the run
_SILENCE_AFTER_ERROR = 10  # beats that did not come, once a collective has failed
_MAX_REASON = 400
_LINGER_S = 5.0  # of rank 0 at the end, which may hold the store


@contextmanager
def watch_ranks(rank: int, num_ranks: int, timeout_s: float) -> Iterator[None]:
    """Watches the ranks of the default process group while the block runs; nothing to do for a single one.

    A process that has to give up on another rank prints one line and ends with `EXIT_CODE`, whatever its main thread
    waits for.

    Args:
        rank: of this process.
        num_ranks: in the process group, which was made by MASTER_ADDR and MASTER_PORT.
        timeout_s: seconds of silence, or without progress, after which a rank is given up.
    """
    if num_ranks == 1:
        yield
        return
    watchdog = Watchdog(rank, num_ranks, timeout_s)
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) and is_of_a_lost_rank(error):
            watchdog.end_with_a_reason(error)
        watchdog.close("failed", reason=" ".join(f"{type(error).__name__}: {error}".split())[:_MAX_REASON].rstrip("."))
        raise
    watchdog.close("done")


class Watchdog:
    """The two threads of a rank."""

    def __init__(self, rank: int, num_ranks: int, timeout_s: float) -> None:
        """Starts them; see `watch_ranks`."""
        self._rank, self._num_ranks, self._timeout_s = rank, num_ranks, timeout_s
        self._interval_s = min(1.0, timeout_s / 10)
        self._host, self._place = socket.gethostname(), this_place()
        self._pid, self._started_s = os.getpid(), psutil.Process().create_time()
        self._heard: dict[int, tuple[Beat, float]] = {}
        """Last beat of a rank, and when it was first seen."""
        self._begun_s = self._answered_s = self._ticked_s = time.monotonic()
        self._slept_s, self._silence_s = 0.0, timeout_s
        self._excused = (0, 0.0)
        """A mark by its number, and seconds of it in which this process did not run."""
        self._tick_lock = threading.Lock()
        self._num_beats = 0
        self._end: End = ""
        self._reason = ""
        self._closing = threading.Event()
        self._verdict_lock = threading.Lock()
        self._store: Any = None
        self._courier = threading.Thread(target=self._carry, name="dsparse-beats", daemon=True)
        self._sentinel = threading.Thread(target=self._guard, name="dsparse-sentinel", daemon=True)
        self._courier.start()
        self._sentinel.start()

    def close(self, end: End, reason: str = "") -> None:
        """Tells the others that this rank leaves, how, and why if with an error."""
        self._end, self._reason = end, reason
        self._closing.set()
        # The store may hang: nothing is lost by not waiting for it.
        self._courier.join(_LINGER_S + _GRACE_S if self._rank == 0 else _GRACE_S)

    def end_with_a_reason(self, error: BaseException) -> None:
        """Waits for the threads to find who is to blame for an error of a collective, which ends this process.

        Whom nobody can name is lost all the same.
        """
        # An error says that somebody has gone, so a shorter silence is enough to be named.
        self._silence_s = min(self._timeout_s, _SILENCE_AFTER_ERROR * self._interval_s)
        self._courier.join(self._silence_s + 4 * self._interval_s + _GRACE_S)
        reason = " ".join(str(error).split())[:_MAX_REASON]
        self._leave(f"rank {self._rank} lost its connection to another rank at {self._beat().where}: {reason}")

    def _carry(self) -> None:
        """The courier: beats out, beats and verdicts in, until the run ends."""
        try:
            self._store = self._connect()
            while not self._closing.wait(self._interval_s):
                self._tick()
                self._tell()
                self._listen()
            self._tell()
            if self._rank == 0:
                self._linger()
        except Exception as error:  # whatever torch raises when the store has gone
            self._lose_the_store(error)

    def _connect(self) -> Any:
        """A connection of this thread's own to the store by which the ranks found each other."""
        return torch.distributed.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=max(1.0, self._timeout_s)),
        )

    def _tell(self) -> None:
        self._num_beats += 1
        self._store.set(f"{_PREFIX}/beat/{self._rank}", self._beat().to_json())

    def _beat(self) -> Beat:
        now = activity()
        return Beat(
            rank=self._rank,
            host=self._host,
            place=self._place,
            pid=self._pid,
            started_s=self._started_s,
            number=self._num_beats,
            doing=now.doing,
            step=now.step,
            num_marks=now.num_marks,
            still_s=time.monotonic() - now.since_s - (self._excused[1] if self._excused[0] == now.num_marks else 0.0),
            may_take_s=now.may_take_s,
            waits=waits_for_others(),
            end=self._end,
            reason=self._reason,
        )

    def _listen(self) -> None:
        verdict = f"{_PREFIX}/verdict"
        if self._store.check([verdict]):
            self._leave(self._store.get(verdict).decode())
        is_first = len(self._heard) < self._num_ranks
        # Once of all, to know who is on this machine; then rank 0 of all, and the others of rank 0.
        for rank in range(self._num_ranks) if is_first or self._rank == 0 else (0,):
            self._hear(rank)
        self._tick()
        self._answered_s = time.monotonic()
        reasons = self._ended() or self._failed() or self._culprits()
        if reasons:
            line = self._with_own_place("; ".join(reasons))
            self._store.set(verdict, line)
            # Others on this machine read it before they see this process gone, and the store perhaps with it.
            time.sleep(3 * self._interval_s)
            self._leave(line)

    def _hear(self, rank: int) -> None:
        key = f"{_PREFIX}/beat/{rank}"
        if not self._store.check([key]):
            return
        beat = Beat.from_json(self._store.get(key))
        known = self._heard.get(rank)
        if known is None or known[0].number != beat.number:
            self._heard[rank] = beat, time.monotonic()

    def _ended(self) -> list[str]:
        """Processes of this machine that have ended without a word: found at once, by their number."""
        found = []
        for rank, (beat, _) in list(self._heard.items()):
            if beat.place != self._place or beat.end or not beat.is_gone():
                continue
            self._hear(rank)  # it may have said so since
            beat = self._heard[rank][0]
            if not beat.end:
                found.append(f"{beat.who} has ended; it was last seen at {beat.where}")
        return found

    def _failed(self) -> list[str]:
        """Ranks that left with an error, if this one does not do the same in a moment."""
        now_s = time.monotonic()
        return [
            f"{beat.who} stopped at {beat.where}: {beat.reason}"
            for beat, since_s in self._heard.values()
            if beat.end == "failed" and now_s - since_s > _GRACE_S
        ]

    def _culprits(self) -> list[str]:
        now_s = time.monotonic()
        heard = {rank: Heard(beat, now_s - since_s) for rank, (beat, since_s) in self._heard.items()}
        if self._rank == 0:
            never = [rank for rank in range(self._num_ranks) if rank not in heard]
            if never and now_s - self._begun_s > self._timeout_s:
                return [f"rank {rank} has never been heard of" for rank in never]
            return find_culprits(heard, self._timeout_s, silence_s=self._silence_s)
        # Rank 0 judges the others; only its own silence is for them to judge, and after it had its say.
        later_s = 3 * self._interval_s
        only = {0: heard[0]} if 0 in heard else {}
        return find_culprits(only, self._timeout_s + later_s, silence_s=self._silence_s + later_s)

    def _linger(self) -> None:
        """The store may end with this process: the others take their leave first."""
        deadline_s = time.monotonic() + _LINGER_S
        waited_for = set(range(1, self._num_ranks))
        while waited_for and time.monotonic() < deadline_s:
            for rank in list(waited_for):
                self._hear(rank)
                if rank in self._heard and (self._heard[rank][0].end or self._is_gone_here(rank)):
                    waited_for.discard(rank)
            time.sleep(0.02)

    def _is_gone_here(self, rank: int) -> bool:
        beat = self._heard[rank][0]
        return beat.place == self._place and beat.is_gone()

    def _lose_the_store(self, error: Exception) -> None:
        """The store is closed: the process that held it has ended, or this run has."""
        if self._closing.wait(_GRACE_S):
            return
        gone = [
            f"{beat.who} has ended; it was last seen at {beat.where}"
            for rank, (beat, _) in sorted(self._heard.items())
            if beat.place == self._place and not beat.end and rank != self._rank and beat.is_gone()
        ]
        reason = " ".join(str(error).split())[:_MAX_REASON]
        self._leave(self._with_own_place("; ".join(gone) or f"{self._rank_0()} has closed its connection ({reason})"))

    def _rank_0(self) -> str:
        return self._heard[0][0].who if 0 in self._heard else f"rank 0 at {os.environ['MASTER_ADDR']}"

    def _guard(self) -> None:
        """The sentinel: no call that could hang."""
        limit_s = self._timeout_s + 4 * self._interval_s
        while not self._closing.wait(self._interval_s):
            self._tick()
            silent_s = time.monotonic() - self._answered_s
            if silent_s > limit_s:
                seen = f"; it was last seen at {self._heard[0][0].where}" if 0 in self._heard else ""
                self._leave(self._with_own_place(f"{self._rank_0()} has not answered for {silent_s:.0f} s{seen}"))

    def _tick(self) -> None:
        """Both threads do it often. After a long pause this process was stopped, or its machine: that others were not
        heard of says nothing about them then, nor does a mark of its own that is old.
        """
        with self._tick_lock:
            now_s = time.monotonic()
            slept_s = now_s - self._ticked_s - self._interval_s
            self._ticked_s = now_s
            if slept_s < 2 * self._interval_s:
                return
            self._slept_s = slept_s
            self._begun_s += slept_s
            self._answered_s += slept_s
            self._heard = {rank: (beat, since_s + slept_s) for rank, (beat, since_s) in list(self._heard.items())}
            mark = activity().num_marks
            self._excused = (mark, slept_s + (self._excused[1] if self._excused[0] == mark else 0.0))

    def _with_own_place(self, reason: str) -> str:
        """Beats are a second apart, and a rank in step with the one lost says more exactly where that was."""
        return f"{reason}; rank {self._rank} is at {self._beat().where}"

    def _leave(self, line: str) -> None:
        """Says why and ends this process, whatever its main thread is in; once, and not when the run has ended."""
        with self._verdict_lock:
            if self._closing.is_set():
                return
            if self._slept_s > self._timeout_s / 2:
                line += f" (rank {self._rank} itself did not run for {self._slept_s:.0f} s)"
            os.write(2, f"error: {line}. {HOW_TO_GO_ON}\n".encode())
            os._exit(EXIT_CODE)
