"""What this process's main thread is doing, as it says itself: marks on its way, for others to see that it moves.

A mark costs a microsecond. Every rank of a run passes the same marks in the same order.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass
from types import FrameType

_COLLECTIVES = tuple(os.path.join(*parts, "") for parts in (("torch", "distributed"), ("deepspeed", "comm")))


@dataclass(frozen=True, slots=True)
class Activity:
    """A mark."""

    doing: str
    """For people: "forward", "saving"."""
    step: int
    """Optimizer step it belongs to; 0 before the first."""
    num_marks: int
    """Marks so far, this one included."""
    since_s: float
    """When it was made, on the clock of `time.monotonic`."""
    may_take_s: float
    """Seconds it may take even where less is configured."""


_now = Activity("starting", 0, 0, time.monotonic(), 0.0)


def mark(doing: str, *, step: int | None = None, may_take_s: float = 0.0) -> None:
    """Says what comes now; without a step it is the one of the mark before."""
    global _now
    _now = Activity(doing, _now.step if step is None else step, _now.num_marks + 1, time.monotonic(), may_take_s)


def activity() -> Activity:
    """The last mark."""
    return _now


def waits_for_others() -> bool:
    """Whether the main thread is inside a collective, by its stack.

    On a GPU a rank may also wait for others in an ordinary read of a tensor, which this does not see.
    """
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if any(place in frame.f_code.co_filename for place in _COLLECTIVES):
            return True
        frame = frame.f_back
    return False
