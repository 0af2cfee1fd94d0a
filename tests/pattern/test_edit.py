"""Drop and grow: golden tables of eight elements, and properties against a slow reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsparse.pattern.block_pattern import BlockPattern
from dsparse.pattern.edit import PatternEdit, apply_edit, drop_and_grow
from tests.pattern.reference import BLOCKS, pattern_of, patterns

# Few different values: most updates have ties among the dropped and among the grown.
SCORES = st.integers(-2, 3) | st.sampled_from([-(2**63), 2**63 - 1])


@st.composite
def updates(draw: st.DrawFn) -> tuple[BlockPattern, list[int], list[int], int]:
    """A pattern, a drop score by slot, a grow score by block number, and how many to move."""
    pattern = draw(patterns(max_side=5))
    num_active, num_blocks = pattern.num_active, pattern.num_blocks
    drop = draw(st.lists(SCORES, min_size=num_active, max_size=num_active))
    grow = draw(st.lists(SCORES, min_size=num_blocks, max_size=num_blocks))
    return pattern, drop, grow, draw(st.integers(0, num_active))


def edit_of(case: tuple[BlockPattern, list[int], list[int], int], *, regrow_dropped: bool = False) -> PatternEdit:
    pattern, drop, grow, num_moved = case
    return drop_and_grow(
        pattern,
        torch.tensor(drop, dtype=torch.int64),
        torch.tensor(grow, dtype=torch.int64),
        num_moved,
        regrow_dropped=regrow_dropped,
    )


def slow_edit(
    case: tuple[BlockPattern, list[int], list[int], int], regrow_dropped: bool
) -> tuple[list[int], list[int], list[int]]:
    """Slots, dropped and grown blocks, by sorting tuples."""
    pattern, drop, grow, num_moved = case
    numbers = pattern.block_numbers().tolist()
    inactive = [number for number in range(pattern.num_blocks) if number not in numbers]
    if not regrow_dropped:
        num_moved = min(num_moved, len(inactive))
    slots = sorted(sorted(range(len(numbers)), key=lambda slot: (drop[slot], numbers[slot]))[:num_moved])
    dropped = [numbers[slot] for slot in slots]
    candidates = inactive + (dropped if regrow_dropped else [])
    grown = sorted(sorted(candidates, key=lambda number: (-grow[number], number))[:num_moved])
    return slots, dropped, grown


@given(updates(), st.booleans())
def test_matches_the_slow_reference(case: tuple[BlockPattern, list[int], list[int], int], regrow_dropped: bool) -> None:
    edit = edit_of(case, regrow_dropped=regrow_dropped)
    got = edit.slots.tolist(), edit.dropped.tolist(), edit.grown.tolist()
    assert got == slow_edit(case, regrow_dropped)


@given(updates())
def test_never_grows_what_was_active(case: tuple[BlockPattern, list[int], list[int], int]) -> None:
    pattern, _, _, num_moved = case
    edit = edit_of(case)
    before = set(pattern.block_numbers().tolist())
    assert not before & set(edit.grown.tolist())
    assert set(edit.dropped.tolist()) <= before
    assert edit.num_moved == min(num_moved, pattern.num_blocks - pattern.num_active)
    assert len(set(edit.grown.tolist())) == len(set(edit.dropped.tolist())) == edit.num_moved


@given(updates(), st.booleans())
def test_counts_and_slots_stay(case: tuple[BlockPattern, list[int], list[int], int], regrow_dropped: bool) -> None:
    pattern = case[0]
    edit = edit_of(case, regrow_dropped=regrow_dropped)
    before = pattern.block_numbers().tolist()
    after = apply_edit(pattern, edit)
    numbers = after.block_numbers().tolist()
    assert (after.shape, after.block, after.num_active) == (pattern.shape, pattern.block, pattern.num_active)
    assert len(set(numbers)) == len(numbers)
    edited = dict(zip(edit.slots.tolist(), edit.grown.tolist(), strict=True))
    assert numbers == [edited.get(slot, number) for slot, number in enumerate(before)]
    # The pattern before the update is a value: it has not changed.
    assert pattern.block_numbers().tolist() == before


@given(updates())
def test_what_moves_does_not_depend_on_slot_order(case: tuple[BlockPattern, list[int], list[int], int]) -> None:
    pattern, drop, grow, num_moved = case
    edit = edit_of(case)
    turned = pattern_of(pattern.block_numbers().flip(0).tolist(), pattern.shape, pattern.block)
    other = edit_of((turned, drop[::-1], grow, num_moved))
    assert set(other.dropped.tolist()) == set(edit.dropped.tolist())
    assert set(other.grown.tolist()) == set(edit.grown.tolist())
    assert apply_edit(turned, other).digest("w") == apply_edit(pattern, edit).digest("w")


@given(updates(), st.booleans())
def test_touched_mask(case: tuple[BlockPattern, list[int], list[int], int], regrow_dropped: bool) -> None:
    pattern = case[0]
    edit = edit_of(case, regrow_dropped=regrow_dropped)
    touched = edit.touched_mask(pattern)
    assert touched.shape == pattern.grid
    expected = sorted({*edit.dropped.tolist(), *edit.grown.tolist()})
    assert touched.flatten().nonzero().flatten().tolist() == expected


# One row of eight 1×1 blocks. Slots 0 to 3 hold blocks 1, 3, 5, 6.
#   block            0  1  2  3  4  5  6  7
#   drop score       .  1  .  1  .  8  2  .
#   grow score       9  1  4  1  5  8  2  3
ACTIVE, DROP, GROW = [1, 3, 5, 6], [1, 1, 8, 2], [9, 1, 4, 1, 5, 8, 2, 3]


@pytest.mark.parametrize(
    ("num_moved", "after"),
    [
        (0, [1, 3, 5, 6]),
        (1, [0, 3, 5, 6]),  # blocks 1 and 3 tie: the lower goes
        (2, [0, 4, 5, 6]),
        (3, [0, 2, 5, 4]),  # slots 0, 1, 3 take 0, 2, 4 in ascending order
        (4, [0, 2, 4, 7]),
    ],
)
def test_golden_table(num_moved: int, after: list[int]) -> None:
    pattern = pattern_of(ACTIVE, (1, 8), 1)
    assert apply_edit(pattern, edit_of((pattern, DROP, GROW, num_moved))).block_numbers().tolist() == after


@pytest.mark.parametrize(
    ("num_moved", "after"),
    [
        (1, [0, 3, 5, 6]),
        (2, [0, 4, 5, 6]),
        (3, [0, 2, 5, 4]),
        (4, [0, 2, 4, 5]),  # block 5, dropped just now, has the second highest grow score
    ],
)
def test_golden_table_regrow_dropped(num_moved: int, after: list[int]) -> None:
    pattern = pattern_of(ACTIVE, (1, 8), 1)
    edit = edit_of((pattern, DROP, GROW, num_moved), regrow_dropped=True)
    assert apply_edit(pattern, edit).block_numbers().tolist() == after


@pytest.mark.parametrize(
    ("num_moved", "after"), [(1, [4, 3, 5, 6]), (2, [4, 7, 5, 6]), (3, [0, 4, 5, 7]), (4, [0, 2, 4, 7])]
)
def test_golden_table_of_blocks_in_two_rows(num_moved: int, after: list[int]) -> None:
    # The same eight as a 2×4 grid of 2×2 blocks, scores as floats, ties among candidates 4 and 7 and among 0 and 2.
    pattern = pattern_of(ACTIVE, (4, 8), 2)
    drop = torch.tensor([0.5, 0.5, 8.0, 2.0])
    grow = torch.tensor([1.0, 9.0, 1.0, 9.0, 3.0, 9.0, 9.0, 3.0])
    edit = drop_and_grow(pattern, drop, grow, num_moved)
    assert apply_edit(pattern, edit).block_numbers().tolist() == after


def test_fewer_candidates_than_moves() -> None:
    pattern = pattern_of([0, 1, 2, 3, 4, 6], (1, 8), 1)
    edit = edit_of((pattern, [3, 1, 2, 9, 9, 9], [0] * 8, 5))
    assert (edit.dropped.tolist(), edit.grown.tolist()) == ([1, 2], [5, 7])


def test_dense_pattern_has_nothing_to_move() -> None:
    pattern = pattern_of([0, 1, 2, 3], (2, 2), 1)
    assert edit_of((pattern, [0] * 4, [0] * 4, 3)).num_moved == 0


@pytest.mark.parametrize("num_moved", [-1, 5])
def test_num_moved_out_of_range(num_moved: int) -> None:
    pattern = pattern_of(ACTIVE, (1, 16), 1)
    with pytest.raises(ValueError, match=r"Expected 0 <= k <= 4"):
        edit_of((pattern, DROP, GROW * 2, num_moved))


@pytest.mark.parametrize("block", BLOCKS)
def test_extreme_integer_scores_keep_their_order(block: int) -> None:
    # The ends of int64: a negated score would overflow where a complemented one does not.
    low, high = -(2**63), 2**63 - 1
    pattern = pattern_of([0, 1], (block, 5 * block), block)
    edit = edit_of((pattern, [high, low], [0, 0, low, high, 0], 1))
    assert (edit.dropped.tolist(), edit.grown.tolist()) == ([1], [3])
