"""What ranks tell each other about themselves, and who is to blame when one does not go on: functions of values."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import psutil
from torch.distributed import DistError

_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|timed out|socket|heartbeat", re.IGNORECASE)

End = Literal["", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life."""

    rank: int
    host: str
    """For people."""
    place: str
    """What tells machines and containers apart: a pid means the same process only within one."""
    pid: int
    started_s: float
    """When the process began, as the machine has it: a pid may be used again."""
    number: int
    """Of this beat; it rises."""
    doing: str
    step: int
    num_marks: int
    still_s: float
    """Seconds since the main thread's last mark."""
    may_take_s: float
    """Seconds that what it is doing may take at least."""
    waits: bool
    """Whether it waits for other ranks."""
    end: End = ""
    """How it left, if it did."""
    reason: str = ""
    """Why, if with an error."""

    def to_json(self) -> str:
        """For the store."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Beat:
        """What `to_json` made."""
        return cls(**json.loads(text))

    @property
    def who(self) -> str:
        """For people: rank, host and process."""
        return f"rank {self.rank} on {self.host} (pid {self.pid})"

    @property
    def where(self) -> str:
        """For people: step and what it did there."""
        return f"step {self.step}, {self.doing}" if self.step else self.doing

    def is_gone(self) -> bool:
        """Whether its process has ended; for a beat of this machine only."""
        try:
            process = psutil.Process(self.pid)
            return process.status() == psutil.STATUS_ZOMBIE or process.create_time() != self.started_s
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False


@dataclass(frozen=True, slots=True)
class Heard:
    """The last beat of a rank, and for how long it has been the last."""

    beat: Beat
    silent_s: float


def this_place() -> str:
    """Name of this machine and its process numbers, the same for two ranks if their pids mean the same."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def find_culprits(heard: Mapping[int, Heard], timeout_s: float, *, silence_s: float | None = None) -> list[str]:
    """One phrase for each rank that keeps the others from going on; empty while all is well.

    A rank that sends no beats is stopped, dead, or cut off. Of those that do, the ones to blame have not moved for
    longer than allowed and wait for nobody; if several, the ones furthest behind, because a rank may also wait where
    `waits` does not see it.

    Args:
        heard: by rank.
        timeout_s: seconds on one mark that are too many.
        silence_s: seconds without a beat that are too many; None is the same.
    """
    present = {rank: one for rank, one in heard.items() if not one.beat.end}
    limit_s = timeout_s if silence_s is None else silence_s
    silent = [one for one in present.values() if one.silent_s > limit_s]
    if silent:
        return [
            f"{one.beat.who} has not been heard of for {one.silent_s:.0f} s; it was last seen at {one.beat.where}"
            for one in silent
        ]
    still_s = {rank: one.beat.still_s + one.silent_s for rank, one in present.items()}
    stuck = {rank: one for rank, one in present.items() if still_s[rank] > max(timeout_s, one.beat.may_take_s)}
    suspects = {rank: one for rank, one in stuck.items() if not one.beat.waits}
    if not suspects:
        if not stuck or len(stuck) < len(present):
            return []
        suspects = stuck
    furthest_behind = min(one.beat.num_marks for one in suspects.values())
    if any(one.beat.num_marks < furthest_behind and not one.beat.waits for one in present.values()):
        return []  # it still moves, and the suspects may be waiting for it
    return [
        f"{one.beat.who} has not moved for {still_s[rank]:.0f} s at {one.beat.where}"
        for rank, one in suspects.items()
        if one.beat.num_marks == furthest_behind
    ]


def is_of_a_lost_rank(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is of a collective that lost a peer."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, DistError):
            return True
        if isinstance(error, RuntimeError) and _LOST.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
