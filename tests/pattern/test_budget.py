"""Budgets add up exactly: uniform by weight, ERK in all."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dsparse.errors import UserError
from dsparse.pattern.budget import erk_budget, num_active_blocks, uniform_budget

GRIDS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=8).map(
    lambda grids: {f"w{i}": grid for i, grid in enumerate(grids)}
)
DENSITIES = st.floats(0.001, 1.0)


@given(GRIDS, DENSITIES)
def test_uniform_is_exact_for_each_weight(grids: dict[str, tuple[int, int]], density: float) -> None:
    budget = uniform_budget(grids, density)
    assert budget == {name: max(1, round(density * rows * cols)) for name, (rows, cols) in grids.items()}


@given(GRIDS, DENSITIES)
def test_erk_total_is_exact(grids: dict[str, tuple[int, int]], density: float) -> None:
    budget = erk_budget(grids, density)
    num_blocks = {name: rows * cols for name, (rows, cols) in grids.items()}
    expected = max(1, round(density * sum(num_blocks.values())), len(grids))
    assert sum(budget.values()) == expected
    assert list(budget) == list(grids)
    assert all(1 <= budget[name] <= num_blocks[name] for name in grids)


def erk_shares(grids: dict[str, tuple[int, int]], total: int) -> dict[str, Fraction]:
    """scale · (R + C) for each weight, those that would exceed their blocks dense and the rest shared anew."""
    dense: set[str] = set()
    while True:
        left = total - sum(grids[name][0] * grids[name][1] for name in dense)
        weight = sum(rows + cols for name, (rows, cols) in grids.items() if name not in dense)
        scale = Fraction(left, weight) if weight else Fraction(0)
        shares = {name: Fraction(r * c) if name in dense else scale * (r + c) for name, (r, c) in grids.items()}
        over = {name for name, (r, c) in grids.items() if shares[name] > r * c}
        if not over:
            return shares
        dense |= over


@given(GRIDS, st.floats(0.05, 1.0))
@settings(max_examples=200)
def test_erk_follows_its_formula(grids: dict[str, tuple[int, int]], density: float) -> None:
    """Within one block of the exact share, where no share is below the one block that every weight has."""
    budget = erk_budget(grids, density)
    shares = erk_shares(grids, sum(budget.values()))
    assume(min(shares.values()) >= 1)
    assert all(abs(budget[name] - shares[name]) < 1 for name in grids)


def test_erk_golden_table() -> None:
    # (R + C) = 16, 40, 8: shares of round(0.25 · (64 + 256 + 16)) = 84 are 21, 52.5 and 10.5.
    grids = {"square": (8, 8), "wide": (8, 32), "small": (4, 4)}
    assert erk_budget(grids, 0.25) == {"square": 21, "wide": 53, "small": 10}


def test_erk_caps_small_weights_at_dense() -> None:
    # Of 0.5 · (4 + 1024) = 514 blocks the small weight's share is 514 · 4/68 = 30, more than its 4: it is dense.
    assert erk_budget({"small": (2, 2), "large": (32, 32)}, 0.5) == {"small": 4, "large": 510}


def test_erk_keeps_a_block_everywhere() -> None:
    assert erk_budget({"a": (3, 3), "b": (3, 3), "c": (3, 3)}, 0.01) == {"a": 1, "b": 1, "c": 1}


def test_no_weights_need_no_budget() -> None:
    assert uniform_budget({}, 0.5) == {}
    assert erk_budget({}, 0.5) == {}


def test_erk_equal_weights_are_uniform() -> None:
    grids = {name: (12, 12) for name in "abcd"}
    assert erk_budget(grids, 0.1) == dict.fromkeys("abcd", 14) | {"a": 15, "b": 15}  # 58 in all, the first two get more


@pytest.mark.parametrize("density", [0.0, -1.0, 1.0001, float("nan")])
def test_density_out_of_range(density: float) -> None:
    for call in (
        lambda: num_active_blocks(10, density),
        lambda: uniform_budget({"w": (2, 2)}, density),
        lambda: erk_budget({"w": (2, 2)}, density),
    ):
        with pytest.raises(UserError, match=r"Expected a density in \(0, 1\]\. Got"):
            call()
