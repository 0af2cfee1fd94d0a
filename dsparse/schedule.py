"""Schedules: functions from the step (an integer) to what is due at it.

A step here is an *applied* optimizer step, counted from 1; steps skipped for overflow do not count. With T total steps
and n updates the pattern changes every T/n steps, at steps floor(i·T/n) for i = 1 … n−1 (arXiv 2108.06277, section 2:
the n-th would fall on the end of training).
"""

from __future__ import annotations

import math
from typing import Literal

DropSchedule = Literal["cosine", "linear", "constant"]


def num_updates_by(step: int, *, total_steps: int, updates: int) -> int:
    """How many pattern updates are due in steps 1 … step; at most `updates` − 1."""
    if step < 1:
        return 0
    # The largest i with floor(i·T/n) <= step, that is i·T < (step + 1)·n.
    largest = ((step + 1) * updates - 1) // total_steps
    return min(largest, updates - 1)


def is_update_step(step: int, *, total_steps: int, updates: int) -> bool:
    """Whether a pattern update is due right after applied step `step`."""
    counts = [num_updates_by(s, total_steps=total_steps, updates=updates) for s in (step - 1, step)]
    return counts[1] > counts[0]


def drop_fraction(step: int, *, total_steps: int, initial: float, schedule: DropSchedule) -> float:
    """The share pr(t) of active blocks to drop at step t: `initial` at 0, and 0 at T unless constant.

    Cosine is the paper's: pr(0) · (1 + cos(π t / T)) / 2.
    """
    progress = min(step / total_steps, 1.0)
    if schedule == "cosine":
        return initial * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "linear":
        return initial * (1 - progress)
    return initial


def num_moved(fraction: float, num_active: int) -> int:
    """k = floor(fraction · K).

    A product within 1e-9 below an integer is that integer: 0.29 · 100 is 29, whatever the last bit of the product.
    """
    return min(num_active, math.floor(fraction * num_active + 1e-9))


def sparse_learning_rate_factor(sparsity: float) -> float:
    """η(s) / η(0) = exp(1.969 s² + 0.2905 s), 6.40 at s = 0.9 (arXiv 2108.06277, appendix on learning rates)."""
    return math.exp(1.969 * sparsity**2 + 0.2905 * sparsity)
