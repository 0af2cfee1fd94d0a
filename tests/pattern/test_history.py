"""Coverage, and what became of the blocks grown last, against Python sets over whole runs of updates."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dsparse.pattern.block_pattern import BlockPattern
from dsparse.pattern.edit import PatternEdit, drop_and_grow
from dsparse.pattern.history import PatternHistory
from tests.pattern.reference import pattern_of, patterns


def random_edit(data: st.DataObject, pattern: BlockPattern, regrow_dropped: bool) -> PatternEdit:
    drop = data.draw(st.permutations(range(pattern.num_active)))
    grow = data.draw(st.permutations(range(pattern.num_blocks)))
    num_moved = data.draw(st.integers(0, pattern.num_active))
    return drop_and_grow(pattern, torch.tensor(drop), torch.tensor(grow), num_moved, regrow_dropped=regrow_dropped)


@given(patterns(max_side=4), st.data(), st.booleans(), st.integers(1, 6))
def test_coverage_and_removed_new_ratio(
    pattern: BlockPattern, data: st.DataObject, regrow_dropped: bool, num_updates: int
) -> None:
    history = PatternHistory.begin(pattern)
    ever = set(pattern.block_numbers().tolist())
    last_grown: set[int] = set()
    assert history.coverage == pattern.density
    for _ in range(num_updates):
        edit = random_edit(data, history.pattern, regrow_dropped)
        dropped = set(edit.dropped.tolist())
        expected = len(last_grown & dropped) / len(last_grown) if last_grown else None
        assert history.removed_new_ratio(edit) == expected
        coverage_before = history.coverage
        history = history.after(edit)
        last_grown = set(edit.grown.tolist())
        ever |= set(history.pattern.block_numbers().tolist())
        assert history.coverage == len(ever) / pattern.num_blocks
        assert history.coverage >= coverage_before
        assert history.ever_active.nonzero().flatten().tolist() == sorted(ever)


def test_histories_are_values() -> None:
    first = PatternHistory.begin(pattern_of([0, 1], (2, 2), 1))
    edit = drop_and_grow(first.pattern, torch.tensor([0, 1]), torch.tensor([0, 0, 1, 2]), 1)
    second = first.after(edit)
    assert (first.coverage, second.coverage) == (0.5, 0.75)
    assert first.pattern.block_numbers().tolist() == [0, 1]
    assert second.pattern.block_numbers().tolist() == [3, 1]
    assert second.last_grown.tolist() == [3]


def test_an_update_that_moves_nothing_forgets_what_was_grown() -> None:
    history = PatternHistory.begin(pattern_of([0], (2, 2), 1))
    scores = torch.zeros(1, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
    history = history.after(drop_and_grow(history.pattern, *scores, 1))
    nothing = drop_and_grow(history.pattern, *scores, 0)
    assert history.removed_new_ratio(nothing) == 0.0
    assert history.after(nothing).removed_new_ratio(nothing) is None
