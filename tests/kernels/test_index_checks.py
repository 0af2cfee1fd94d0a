"""Orders of blocks against sorting in plain Python, and that every way to spoil them is seen."""

from __future__ import annotations

import pytest
import torch

from dsparse.kernels.index import BlockIndex
from dsparse.pattern.block_pattern import BlockPattern


def shuffled(shape: tuple[int, int], block: int, density: float, seed: int) -> BlockPattern:
    """A random pattern whose slots are in no order, as after updates."""
    pattern = BlockPattern.random(shape, block=block, density=density, seed=seed)
    order = torch.randperm(pattern.num_active, generator=torch.Generator().manual_seed(seed))
    return BlockPattern.from_block_numbers(pattern.block_numbers()[order], shape, block)


PATTERNS = [
    shuffled((12, 8), 2, 0.4, 1),
    shuffled((4, 4), 4, 1.0, 2),
    shuffled((300, 500), 1, 0.5, 3),  # enough for the radix sort
    shuffled((64, 16), 1, 0.02, 4),  # rows and columns without blocks
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_orders_match_a_sort(pattern: BlockPattern) -> None:
    index = BlockIndex.of(pattern)
    rows, cols = pattern.rows.tolist(), pattern.cols.tolist()
    slots = range(pattern.num_active)
    assert index.row_slots.tolist() == sorted(slots, key=lambda slot: (rows[slot], cols[slot]))
    assert index.col_slots.tolist() == sorted(slots, key=lambda slot: (cols[slot], rows[slot]))
    for offsets, lines, num in ((index.row_offsets, rows, pattern.grid[0]), (index.col_offsets, cols, pattern.grid[1])):
        assert offsets.tolist() == [sum(line < at for line in lines) for at in range(num + 1)]
    assert all(tensor.dtype == torch.int32 for tensor in index)
    assert index.is_of(pattern)


@pytest.mark.parametrize("field", BlockIndex._fields)
@pytest.mark.parametrize("pattern", PATTERNS[:1] + PATTERNS[2:])
def test_every_change_is_seen(pattern: BlockPattern, field: str) -> None:
    index = BlockIndex.of(pattern)
    tensor = getattr(index, field)
    for change in ("first up", "last down", "negative", "far away", "swapped", "repeated"):
        spoilt = tensor.clone()
        if change == "swapped":
            spoilt[[0, -1]] = tensor[[-1, 0]]
        elif change == "repeated":
            spoilt[0] = tensor[1]
        else:
            place, add = {"first up": (0, 1), "last down": (-1, -1), "negative": (0, -(2**20)), "far away": (1, 2**20)}[
                change
            ]
            spoilt[place] += add
        assert index._replace(**{field: spoilt}).is_of(pattern) == torch.equal(spoilt, tensor)
    assert not index._replace(**{field: tensor[:-1]}).is_of(pattern)


def test_another_pattern_of_as_many_blocks_is_not_the_same() -> None:
    one, other = shuffled((12, 8), 2, 0.4, 1), shuffled((12, 8), 2, 0.4, 5)
    assert one.num_active == other.num_active
    assert not BlockIndex.of(one).is_of(other)
