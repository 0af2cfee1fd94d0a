"""Fault points: places at which a test can have a process killed, as by a machine that loses power.

DSPARSE_FAULT names the rank, the point and the how manieth arrival at it: "0:save.rename:2" kills rank 0 when it is
about to rename a checkpoint for the second time. Unset, as in all training, a point does nothing.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

VARIABLE = "DSPARSE_FAULT"

POINTS = ("save.begin", "save.write", "save.patterns", "save.manifest", "save.rename", "save.latest", "save.prune")
"""In the order in which a save comes to them; "save.write" is reached many times, with part of a file written."""

_arrivals: Counter[str] = Counter()


def reach(point: str) -> None:
    """Ends this process by SIGKILL if it is the one, and this is the arrival, that DSPARSE_FAULT asks for."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    rank, name, arrival = wanted.split(":")
    _arrivals[point] += 1
    if point == name and os.environ.get("RANK", "0") == rank and _arrivals[point] == int(arrival):
        os.kill(os.getpid(), signal.SIGKILL)
