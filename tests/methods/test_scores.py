"""Block norms that are the same bits however a weight is cut into fragments, and the norm they say they are."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsparse.methods.scores import Norm, partial_block_scores, reduction_of
from dsparse.pattern.block_pattern import BlockPattern
from tests.pattern.reference import BLOCKS, pattern_of, patterns

NORMS: list[Norm] = ["l1", "l2", "linf"]
FRACTION_BITS = {"l1": 40, "l2": 44}


def combine(parts: list[torch.Tensor], norm: Norm, block: int) -> torch.Tensor:
    stacked = torch.stack(parts)
    return stacked.amax(0) if reduction_of(norm, block) == "max" else stacked.sum(0)


def cut(flat: torch.Tensor, bounds: list[int]) -> list[tuple[int, torch.Tensor]]:
    ends = [0, *sorted(bounds), flat.numel()]
    return [(start, flat[start:end]) for start, end in itertools.pairwise(ends)]


def weight_like(pattern: BlockPattern, seed: int) -> torch.Tensor:
    """A weight over many magnitudes, where the order of a float sum would show."""
    generator = torch.Generator().manual_seed(seed)
    exponent = torch.randint(-18, 3, pattern.shape, generator=generator)
    return torch.randn(pattern.shape, generator=generator) * 2.0**exponent


@given(patterns(max_side=4), st.sampled_from(NORMS), st.integers(0, 2**31), st.data())
def test_any_cut_gives_the_same_bits(pattern: BlockPattern, norm: Norm, seed: int, data: st.DataObject) -> None:
    flat = weight_like(pattern, seed).flatten()
    whole = partial_block_scores(flat, 0, pattern, norm)
    assert whole.dtype == torch.int64
    bounds = data.draw(st.lists(st.integers(0, flat.numel()), max_size=5))
    parts = [partial_block_scores(part, start, pattern, norm) for start, part in cut(flat, bounds)]
    order = data.draw(st.permutations(range(len(parts))))
    assert torch.equal(combine([parts[i] for i in order], norm, pattern.block), whole)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_even_partitions_like_zero(norm: Norm, world_size: int) -> None:
    # 30·42 elements over 4 ranks: cuts fall inside rows and inside 2×2 and 6×6 blocks.
    for block in (1, 2, 3, 6):
        pattern = BlockPattern.random((30, 42), block=block, density=0.5, seed=block, name="w")
        flat = weight_like(pattern, 5).flatten()
        size = -(-flat.numel() // world_size)
        bounds = [rank * size for rank in range(1, world_size)]
        parts = [partial_block_scores(part, start, pattern, norm) for start, part in cut(flat, bounds)]
        assert torch.equal(combine(parts, norm, block), partial_block_scores(flat, 0, pattern, norm))


def exact_score(values: list[float], norm: Norm, block: int) -> int:
    """The documented definition in exact fractions."""
    if reduction_of(norm, block) == "max":
        return int(torch.tensor(max(abs(v) for v in values)).view(torch.int32))
    power = 1 if norm == "l1" else 2
    cap = 2**62 // block**2
    # Python rounds a Fraction to the nearest integer, halves to even.
    return sum(round(min(abs(Fraction(v)) ** power * 2 ** FRACTION_BITS[norm], Fraction(cap))) for v in values)


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from(NORMS), st.integers(0, 2**31), st.data())
def test_scores_match_exact_fractions(block: int, norm: Norm, seed: int, data: st.DataObject) -> None:
    active = data.draw(st.sets(st.integers(0, 5), min_size=1))
    order = data.draw(st.permutations(sorted(active)))
    pattern = pattern_of(order, (2 * block, 3 * block), block)
    weight = weight_like(pattern, seed)
    scores = partial_block_scores(weight.flatten(), 0, pattern, norm)
    for score, number in zip(scores.tolist(), order, strict=True):
        row, col = divmod(number, 3)
        tile = weight[row * block : (row + 1) * block, col * block : (col + 1) * block]
        assert score == exact_score(tile.flatten().tolist(), norm, block)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4))
def test_single_elements_order_as_magnitudes(values: list[float]) -> None:
    """1×1 blocks: whatever the norm, nothing is rounded and nothing capped, down to denormals."""
    pattern = pattern_of([0, 1, 2, 3], (2, 2), 1)
    for norm in NORMS:
        scores = partial_block_scores(torch.tensor(values), 0, pattern, norm).tolist()
        for one in range(4):
            for other in range(4):
                assert (scores[one] < scores[other]) == (abs(values[one]) < abs(values[other]))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("block", [b for b in BLOCKS if b > 1])
def test_scores_order_as_the_norm(norm: Norm, block: int) -> None:
    pattern = BlockPattern.random((4 * block, 3 * block), block=block, density=1.0)
    weight = torch.randn(pattern.shape, generator=torch.Generator().manual_seed(block)) * 0.02
    tiles = weight.double().view(4, block, 3, block).permute(0, 2, 1, 3).reshape(12, -1).abs()
    true = {"l1": tiles.sum(1), "l2": tiles.square().sum(1), "linf": tiles.amax(1)}[norm]
    scores = partial_block_scores(weight.flatten(), 0, pattern, norm)
    assert scores.argsort().tolist() == true.argsort().tolist()
    if norm != "linf":
        # Each element is off by at most half a unit.
        error = (scores.double() / 2 ** FRACTION_BITS[norm] - true).abs().max()
        assert error <= 0.5 * block**2 / 2 ** FRACTION_BITS[norm]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("block", BLOCKS)
def test_huge_weights_do_not_overflow(norm: Norm, block: int) -> None:
    pattern = pattern_of([0, 1], (block, 2 * block), block)
    weight = torch.zeros(block, 2 * block)
    weight[:, block:] = torch.finfo(torch.float32).max
    low, high = partial_block_scores(weight.flatten(), 0, pattern, norm).tolist()
    assert (low, high > 0) == (0, True)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("block", BLOCKS)
def test_large_weights_are_told_apart(norm: Norm, block: int) -> None:
    """No healthy weight is near the cap: whole blocks of 4 and of 6 still differ, 200 deviations of the init."""
    pattern = pattern_of([0, 1], (block, 2 * block), block)
    weight = torch.full((block, 2 * block), 6.0)
    weight[:, block:] = 4.0
    large, small = partial_block_scores(weight.flatten(), 0, pattern, norm).tolist()
    assert large > small


@pytest.mark.parametrize("norm", NORMS)
def test_a_fragment_scores_only_what_it_touches(norm: Norm) -> None:
    pattern = pattern_of([5, 0, 3], (6, 4), 2)  # grid 3×2: blocks 5 (row 2), 0 (row 0), 3 (row 1)
    fragment = torch.ones(8)  # rows 2 and 3: block row 1
    scores = partial_block_scores(fragment, 8, pattern, norm).tolist()
    assert (scores[0], scores[1], scores[2] > 0) == (0, 0, True)
    assert partial_block_scores(torch.empty(0), 3, pattern, norm).tolist() == [0, 0, 0]


def test_reductions() -> None:
    assert [reduction_of(norm, 16) for norm in NORMS] == ["sum", "sum", "max"]
    assert [reduction_of(norm, 1) for norm in NORMS] == ["max", "max", "max"]
