"""Scores of a packed weight are those of the dense weight it stands for, bit for bit, wherever it is cut."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dsparse.layout.packed import unpack
from dsparse.methods.scores import Norm, partial_block_scores, partial_slot_scores, reduction_of
from dsparse.pattern.block_pattern import BlockPattern
from tests.pattern.reference import BLOCKS, pattern_of, patterns

NORMS: list[Norm] = ["l1", "l2", "linf"]


def values_like(pattern: BlockPattern, seed: int) -> Tensor:
    """Over many magnitudes, where the order of a float sum would show."""
    generator = torch.Generator().manual_seed(seed)
    shape = pattern.num_active, pattern.block, pattern.block
    return torch.randn(shape, generator=generator) * 2.0 ** torch.randint(-18, 3, shape, generator=generator)


def dense_scores(values: Tensor, pattern: BlockPattern, norm: Norm) -> Tensor:
    dense = unpack(values, pattern.rows, pattern.cols, pattern.shape)
    return partial_block_scores(dense.flatten(), 0, pattern, norm)


def combine(parts: list[Tensor], norm: Norm, block: int) -> Tensor:
    stacked = torch.stack(parts)
    return stacked.amax(0) if reduction_of(norm, block) == "max" else stacked.sum(0)


@given(patterns(max_side=4), st.sampled_from(NORMS), st.integers(0, 2**31))
def test_whole_weight(pattern: BlockPattern, norm: Norm, seed: int) -> None:
    values = values_like(pattern, seed)
    scores = partial_slot_scores(values.flatten(), 0, pattern, norm)
    assert scores.dtype == torch.int64
    assert torch.equal(scores, dense_scores(values, pattern, norm))


@given(patterns(max_side=4), st.sampled_from(NORMS), st.integers(0, 2**31), st.data())
def test_any_cut(pattern: BlockPattern, norm: Norm, seed: int, data: st.DataObject) -> None:
    values = values_like(pattern, seed)
    flat = values.flatten()
    cuts = data.draw(st.lists(st.integers(0, flat.numel()), max_size=5))
    bounds = [0, *sorted(cuts), flat.numel()]
    parts = [partial_slot_scores(flat[a:b], a, pattern, norm) for a, b in itertools.pairwise(bounds)]
    order = data.draw(st.permutations(range(len(parts))))
    assert torch.equal(combine([parts[i] for i in order], norm, pattern.block), dense_scores(values, pattern, norm))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("block", [1, 2, 3])
def test_every_fragment(block: int, norm: Norm) -> None:
    """All begins and ends in three slots: what is outside counts as zero."""
    pattern = pattern_of([4, 0, 3], (2 * block, 3 * block), block)
    values = values_like(pattern, block)
    flat = values.flatten()
    for start, end in itertools.combinations_with_replacement(range(flat.numel() + 1), 2):
        alone = torch.zeros_like(flat)
        alone[start:end] = flat[start:end]
        got = partial_slot_scores(flat[start:end], start, pattern, norm)
        assert torch.equal(got, dense_scores(alone.view_as(values), pattern, norm))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_even_partitions_like_zero(world_size: int, block: int, norm: Norm) -> None:
    pattern = pattern_of([5, 1, 4, 0], (2 * block, 3 * block), block)
    values = values_like(pattern, block)
    parts = values.flatten().split(-(-values.numel() // world_size))
    starts = itertools.accumulate((part.numel() for part in parts), initial=0)
    scores = [partial_slot_scores(part, start, pattern, norm) for start, part in zip(starts, parts, strict=False)]
    assert torch.equal(combine(scores, norm, block), dense_scores(values, pattern, norm))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("start", [0, 1, 8, 9, 27])
def test_empty_fragments(start: int, block: int, norm: Norm) -> None:
    pattern = pattern_of([4, 0, 3], (2 * block, 3 * block), block)
    start = min(start, 3 * block**2)
    scores = partial_slot_scores(torch.empty(0), start, pattern, norm)
    assert scores.dtype == torch.int64
    assert scores.tolist() == [0, 0, 0]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("block", BLOCKS)
def test_huge_values_are_capped_alike(block: int, norm: Norm) -> None:
    pattern = pattern_of([1, 0], (block, 2 * block), block)
    values = torch.full((2, block, block), torch.finfo(torch.float32).max)
    values[1] = -0.0
    scores = partial_slot_scores(values.flatten(), 0, pattern, norm)
    assert torch.equal(scores, dense_scores(values, pattern, norm))
    assert scores[0] > 0 and scores[1] == 0


@pytest.mark.parametrize("norm", NORMS)
def test_the_fragment_is_only_read(norm: Norm) -> None:
    """It is the optimizer's own master."""
    for block in (1, 2):
        pattern = pattern_of([3, 0], (2 * block, 2 * block), block)
        flat = values_like(pattern, 3).flatten()
        before = flat.clone()
        partial_slot_scores(flat, 0, pattern, norm)
        assert torch.equal(flat, before)
