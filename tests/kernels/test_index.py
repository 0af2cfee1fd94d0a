"""The orders that kernels walk, against lists put together one block at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

from dsparse.kernels.index import BlockIndex
from dsparse.pattern.block_pattern import BlockPattern
from dsparse.pattern.edit import apply_edit, drop_and_grow
from tests.pattern.reference import pattern_of, patterns


def slow_index(pattern: BlockPattern) -> dict[str, list[int]]:
    rows, cols = pattern.rows.tolist(), pattern.cols.tolist()
    slots = range(len(rows))
    num_rows, num_cols = pattern.grid
    return {
        "rows_S": rows,
        "cols_S": cols,
        "row_offsets": [sum(row < r for row in rows) for r in range(num_rows + 1)],
        "row_slots": sorted(slots, key=lambda slot: (rows[slot], cols[slot])),
        "col_offsets": [sum(col < c for col in cols) for c in range(num_cols + 1)],
        "col_slots": sorted(slots, key=lambda slot: (cols[slot], rows[slot])),
    }


def as_lists(index: BlockIndex) -> dict[str, list[int]]:
    return {name: tensor.tolist() for name, tensor in index._asdict().items()}


@given(patterns())
def test_matches_the_slow_construction(pattern: BlockPattern) -> None:
    index = BlockIndex.of(pattern)
    assert as_lists(index) == slow_index(pattern)
    assert index.grid == pattern.grid
    assert all(tensor.dtype == torch.int32 and tensor.is_contiguous() for tensor in index)


@given(patterns())
def test_every_line_finds_its_blocks(pattern: BlockPattern) -> None:
    """What a kernel relies on, said without an order: each slot once, under its own row and its own column."""
    index = BlockIndex.of(pattern)
    lines = (
        (index.row_offsets, index.row_slots, pattern.rows, pattern.cols),
        (index.col_offsets, index.col_slots, pattern.cols, pattern.rows),
    )
    for offsets, slots, own, across in lines:
        assert sorted(slots.tolist()) == list(range(pattern.num_active))
        assert offsets[0] == 0 and offsets[-1] == pattern.num_active
        for line in range(offsets.numel() - 1):
            here = slots[offsets[line] : offsets[line + 1]]
            assert (own[here] == line).all()
            assert (across[here].diff() > 0).all()


def test_golden() -> None:
    #     c0 c1 c2 c3          block numbers of slots 0 … 4
    # r0   .  3  .  1
    # r1   .  .  .  .
    # r2   4  0  .  2
    pattern = pattern_of([9, 3, 11, 1, 8], (6, 8), 2)
    assert as_lists(BlockIndex.of(pattern)) == {
        "rows_S": [2, 0, 2, 0, 2],
        "cols_S": [1, 3, 3, 1, 0],
        "row_offsets": [0, 2, 2, 5],
        "row_slots": [3, 1, 4, 0, 2],
        "col_offsets": [0, 1, 3, 3, 5],
        "col_slots": [4, 3, 0, 1, 2],
    }


@pytest.mark.parametrize(
    ("numbers", "grid", "row_offsets", "col_offsets"),
    [
        pytest.param([0], (1, 1), [0, 1], [0, 1], id="the only block"),
        pytest.param([0], (3, 2), [0, 1, 1, 1], [0, 1, 1], id="first of many"),
        pytest.param([5], (3, 2), [0, 0, 0, 1], [0, 0, 1], id="last of many"),
        pytest.param([3, 2], (3, 2), [0, 0, 2, 2], [0, 1, 2], id="one row"),
        pytest.param([4, 0, 2], (3, 2), [0, 1, 2, 3], [0, 3, 3], id="one column"),
        pytest.param([], (3, 2), [0, 0, 0, 0], [0, 0, 0], id="none"),
    ],
)
def test_empty_lines(numbers: list[int], grid: tuple[int, int], row_offsets: list[int], col_offsets: list[int]) -> None:
    pattern = pattern_of(numbers, (grid[0] * 4, grid[1] * 4), 4)
    index = BlockIndex.of(pattern)
    assert index.row_offsets.tolist() == row_offsets
    assert index.col_offsets.tolist() == col_offsets
    assert as_lists(index) == slow_index(pattern)


def test_strided_rows_and_columns() -> None:
    """A pattern out of one table of pairs has tensors with a stride."""
    pairs = torch.tensor([[1, 0], [0, 1], [1, 1]], dtype=torch.int32)
    index = BlockIndex.of(BlockPattern(pairs[:, 0], pairs[:, 1], (4, 4), 2))
    assert index.rows_S.is_contiguous() and index.cols_S.is_contiguous()
    assert as_lists(index) == as_lists(BlockIndex.of(pattern_of([2, 1, 3], (4, 4), 2)))


def test_shares_nothing_with_the_pattern() -> None:
    """Layers write into their index; a pattern is a value."""
    pattern = BlockPattern.random((16, 16), block=4, density=0.5)
    rows, cols = pattern.rows.tolist(), pattern.cols.tolist()
    for tensor in BlockIndex.of(pattern):
        tensor.zero_()
    assert (pattern.rows.tolist(), pattern.cols.tolist()) == (rows, cols)


def test_does_not_follow_the_pattern() -> None:
    """An edit makes another pattern; the index of before still is of before."""
    before = BlockPattern.random((16, 16), block=4, density=0.5)
    index = BlockIndex.of(before)
    expected = as_lists(index)
    edit = drop_and_grow(before, torch.arange(before.num_active), torch.arange(before.num_blocks), 3)
    assert as_lists(BlockIndex.of(apply_edit(before, edit))) != expected
    assert as_lists(index) == expected
