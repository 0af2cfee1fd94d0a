"""Patterns as values: counts, masks, numbering, digests, and the errors of their making."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from dsparse.errors import UserError
from dsparse.pattern.block_pattern import BlockPattern, expand_blocks
from tests.pattern import reference
from tests.pattern.reference import BLOCKS, pattern_of, patterns, shapes

QUERY = "bert.encoder.layer.0.attention.self.query.weight"


@given(shapes(max_side=12), st.floats(0.001, 1.0), st.integers(0, 2**63 - 1))
def test_random_has_the_exact_count(case: tuple[tuple[int, int], int], density: float, seed: int) -> None:
    shape, block = case
    pattern = BlockPattern.random(shape, block=block, density=density, seed=seed, name="w")
    num_blocks = (shape[0] // block) * (shape[1] // block)
    expected = max(1, round(density * num_blocks))
    assert pattern.num_active == expected
    assert pattern.num_blocks == num_blocks
    assert pattern.density == expected / num_blocks
    assert int(pattern.mask().sum()) == expected * block * block


@given(shapes(), st.floats(0.001, 1.0), st.integers(0, 2**63 - 1), st.text(max_size=20))
def test_random_takes_the_smallest_draws(
    case: tuple[tuple[int, int], int], density: float, seed: int, name: str
) -> None:
    shape, block = case
    pattern = BlockPattern.random(shape, block=block, density=density, seed=seed, name=name)
    draws = [reference.draw(seed, name, 0, number) for number in range(pattern.num_blocks)]
    assert pattern.block_numbers().tolist() == reference.smallest(draws, list(range(len(draws))), pattern.num_active)


def test_random_known_answer() -> None:
    pattern = BlockPattern.random((64, 96), block=16, density=0.25, seed=42, name=QUERY)
    assert pattern.block_numbers().tolist() == [3, 4, 5, 13, 15, 19]
    assert pattern.rows.tolist() == [0, 0, 0, 2, 2, 3]
    assert pattern.cols.tolist() == [3, 4, 5, 1, 3, 1]
    assert pattern.digest(QUERY) == 0x12123DCEE48674B6
    assert pattern.digest() == 0xBEF1E1B1A4B12326


def test_random_depends_on_seed_and_name_alone() -> None:
    def numbers(seed: int, name: str) -> list[int]:
        return BlockPattern.random((64, 64), block=2, density=0.1, seed=seed, name=name).block_numbers().tolist()

    torch.manual_seed(1)
    first = numbers(0, "a")
    torch.manual_seed(2)
    assert numbers(0, "a") == first
    assert numbers(1, "a") != first
    assert numbers(0, "b") != first


@given(patterns())
def test_mask_is_its_blocks(pattern: BlockPattern) -> None:
    block, (num_out, num_in) = pattern.block, pattern.shape
    active = set(zip(pattern.rows.tolist(), pattern.cols.tolist(), strict=True))
    mask = pattern.mask()
    assert mask.dtype == torch.bool
    assert mask.shape == pattern.shape
    # One look at every element of a grid cell's corners and middle is a look at the cell: it is constant inside.
    tiles = mask.view(num_out // block, block, num_in // block, block)
    for row in range(num_out // block):
        for col in range(num_in // block):
            assert bool(tiles[row, :, col].all()) == ((row, col) in active)
            assert bool(tiles[row, :, col].any()) == ((row, col) in active)


@given(shapes(max_side=3), st.data())
def test_mask_element_by_element(case: tuple[tuple[int, int], int], data: st.DataObject) -> None:
    shape, block = case
    assume(block <= 8)
    num_blocks = (shape[0] // block) * (shape[1] // block)
    active = data.draw(st.sets(st.integers(0, num_blocks - 1), min_size=1))
    mask = pattern_of(sorted(active), shape, block).mask()
    num_cols = shape[1] // block
    for out in range(shape[0]):
        for column in range(shape[1]):
            assert bool(mask[out, column]) == ((out // block) * num_cols + column // block in active)


@given(patterns())
def test_block_numbers_round_trip(pattern: BlockPattern) -> None:
    numbers = pattern.block_numbers()
    assert numbers.dtype == torch.int64
    assert (pattern.rows.dtype, pattern.cols.dtype) == (torch.int32, torch.int32)
    again = BlockPattern.from_block_numbers(numbers, pattern.shape, pattern.block)
    assert torch.equal(again.rows, pattern.rows)
    assert torch.equal(again.cols, pattern.cols)
    assert pattern.block_mask().flatten().nonzero().flatten().tolist() == sorted(numbers.tolist())


@given(st.data(), patterns())
def test_digest_is_of_the_set(data: st.DataObject, pattern: BlockPattern) -> None:
    shuffled = data.draw(st.permutations(pattern.block_numbers().tolist()))
    assert pattern_of(shuffled, pattern.shape, pattern.block).digest("w") == pattern.digest("w")


@given(patterns())
def test_digest_matches_big_integers(pattern: BlockPattern) -> None:
    key = reference.key(0, f"digest w ({pattern.shape[0]}, {pattern.shape[1]}) {pattern.block}", 0)
    hashes = [reference.splitmix64(key, number) for number in pattern.block_numbers().tolist()]
    assert pattern.digest("w") == (key + sum(hashes)) % 2**64


@given(patterns(max_side=5))
def test_digest_sees_every_single_block_change(pattern: BlockPattern) -> None:
    numbers = pattern.block_numbers().tolist()
    inactive = sorted(set(range(pattern.num_blocks)) - set(numbers))
    others = [numbers[:i] + numbers[i + 1 :] for i in range(len(numbers))]  # one block less
    others += [[*numbers, grown] for grown in inactive]  # one block more
    others += [[*numbers[:i], grown, *numbers[i + 1 :]] for i in range(len(numbers)) for grown in inactive]  # one moved
    digests = {pattern_of(other, pattern.shape, pattern.block).digest("w") for other in others}
    assert pattern.digest("w") not in digests


def test_digest_sees_name_shape_and_block() -> None:
    digests = {
        pattern_of([0], shape, block).digest(name)
        for name in ("", "a", "b")
        for shape, block in [((4, 4), 1), ((4, 4), 2), ((4, 4), 4), ((2, 8), 1), ((8, 2), 1), ((8, 2), 2)]
    }
    assert len(digests) == 18
    assert all(0 <= digest < 2**64 for digest in digests)


@pytest.mark.parametrize("block", BLOCKS)
def test_rectangular_weights(block: int) -> None:
    wide = BlockPattern.random((block * 2, block * 7), block=block, density=0.5, name="wide")
    assert wide.grid == (2, 7)
    assert wide.num_active == 7
    assert wide.mask().shape == (block * 2, block * 7)


@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, float("nan")])
def test_density_out_of_range(density: float) -> None:
    with pytest.raises(UserError, match=r"Expected a density in \(0, 1\]\. Got"):
        BlockPattern.random((8, 8), block=2, density=density)


def test_block_that_does_not_divide_is_named_with_those_that_would() -> None:
    with pytest.raises(UserError) as error:
        BlockPattern.random((24, 40), block=16, density=0.5, name="encoder.dense.weight")
    message = str(error.value)
    assert "'encoder.dense.weight' of shape (24, 40)" in message
    assert "Got 16; these would: 1, 2, 4, 8." in message
    assert "\n" not in message


@pytest.mark.parametrize("block", [0, -4])
def test_block_below_one(block: int) -> None:
    with pytest.raises(UserError, match=rf"Got {block}; these would: 1, 2, 4, 8\."):
        BlockPattern.random((8, 8), block=block, density=0.5)


@pytest.mark.parametrize("numbers", [[0, 0], [4], [-1], [1, 2, 1], [2**33]])
def test_repeated_or_outside_block_numbers(numbers: list[int]) -> None:
    with pytest.raises(ValueError, match=r"different block numbers in \[0, 4\)"):
        pattern_of(numbers, (4, 4), 2)


def test_expand_blocks_keeps_values_and_dtype() -> None:
    blocks = torch.tensor([[1, 2, 3]], dtype=torch.int16)
    expected = torch.tensor([[1, 1, 2, 2, 3, 3]] * 2, dtype=torch.int16)
    assert torch.equal(expand_blocks(blocks, 2), expected)
    assert expand_blocks(blocks, 2).dtype == torch.int16
