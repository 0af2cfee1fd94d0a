"""Schedules: exact update steps, drop fractions at their known points, floors, the learning-rate rule."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dsparse.schedule import (
    DropSchedule,
    drop_fraction,
    is_update_step,
    num_moved,
    num_updates_by,
    sparse_learning_rate_factor,
)

SCHEDULES: list[DropSchedule] = ["cosine", "linear", "constant"]


@given(st.integers(1, 2000), st.data())
def test_update_steps(total_steps: int, data: st.DataObject) -> None:
    """Exactly n − 1 updates inside (0, T), at floor(i·T/n)."""
    updates = data.draw(st.integers(1, total_steps))
    steps = [step for step in range(total_steps + 1) if is_update_step(step, total_steps=total_steps, updates=updates)]
    assert steps == [i * total_steps // updates for i in range(1, updates)]
    assert len(steps) == updates - 1
    assert all(0 < step < total_steps for step in steps)
    gaps = [after - before for before, after in itertools.pairwise(steps)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(st.integers(1, 10**9), st.integers(1, 10**6), st.integers(-5, 2 * 10**9))
def test_num_updates_by_counts_them(total_steps: int, updates: int, step: int) -> None:
    assume(updates <= total_steps)
    got = num_updates_by(step, total_steps=total_steps, updates=updates)
    assert 0 <= got <= updates - 1
    # The got-th update is due by now and the next is not.
    if got:
        assert got * total_steps // updates <= step
    if got < updates - 1:
        assert (got + 1) * total_steps // updates > step


def test_updates_of_the_paper() -> None:
    # n = 80 updates in a million steps: every 12 500, the last one 12 500 before the end.
    steps = [step for step in range(0, 1_000_001, 100) if is_update_step(step, total_steps=1_000_000, updates=80)]
    assert steps == list(range(12_500, 1_000_000, 12_500))


def test_no_update_before_the_first_step_or_after_the_last() -> None:
    assert not is_update_step(0, total_steps=10, updates=10)
    assert [is_update_step(step, total_steps=10, updates=10) for step in (1, 9, 10, 11, 1000)] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_one_update_is_none() -> None:
    assert not any(is_update_step(step, total_steps=7, updates=1) for step in range(20))


@pytest.mark.parametrize(
    ("schedule", "start", "quarter", "middle", "end"),
    [
        ("cosine", 0.5, 0.25 * (1 + math.sqrt(0.5)), 0.25, 0.0),
        ("linear", 0.5, 0.375, 0.25, 0.0),
        ("constant", 0.5, 0.5, 0.5, 0.5),
    ],
)
def test_drop_fraction_table(schedule: DropSchedule, start: float, quarter: float, middle: float, end: float) -> None:
    got = [drop_fraction(step, total_steps=1000, initial=0.5, schedule=schedule) for step in (0, 250, 500, 1000)]
    assert got == pytest.approx([start, quarter, middle, end], abs=1e-15)


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(total_steps=st.integers(1, 10**7), initial=st.floats(0, 1, allow_subnormal=False))
def test_drop_fraction_never_rises(schedule: DropSchedule, total_steps: int, initial: float) -> None:
    steps = [total_steps * i // 16 for i in range(17)] + [total_steps + 1, 10 * total_steps]
    values = [drop_fraction(s, total_steps=total_steps, initial=initial, schedule=schedule) for s in steps]
    assert values[0] == initial
    assert all(0 <= later <= earlier for earlier, later in itertools.pairwise(values))
    assert values[-1] == values[16] == (initial if schedule == "constant" else pytest.approx(0, abs=1e-16))


@given(st.integers(0, 10**7), st.integers(0, 1000))
def test_num_moved_is_the_floor_of_the_decimal(num_active: int, thousandths: int) -> None:
    """0.29 · 100 is 29, though the product of their floats is 28.999999999999996."""
    assert num_moved(thousandths / 1000, num_active) == num_active * thousandths // 1000


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_num_moved_is_the_floor(num_active: int, fraction: float) -> None:
    exact = Fraction(fraction) * num_active
    assume(math.ceil(exact) - exact > Fraction(2, 10**9))
    assert num_moved(fraction, num_active) == math.floor(exact)


def test_num_moved_examples() -> None:
    assert 0.29 * 100 < 29
    assert [num_moved(f, k) for f, k in [(0.29, 100), (0.5, 7), (0.0, 9), (1.0, 9), (0.999, 10)]] == [29, 3, 0, 9, 9]


def test_learning_rate_factor() -> None:
    assert sparse_learning_rate_factor(0.0) == 1.0
    assert sparse_learning_rate_factor(0.9) == pytest.approx(6.40, abs=0.005)
    assert sparse_learning_rate_factor(0.5) == pytest.approx(math.exp(0.49225 + 0.14525), rel=1e-12)
