"""The generator: known answers that may never change, an independent implementation, and its statistics.

A changed value here changes every pattern of every seed, and patterns of saved runs could not be continued.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsparse.pattern.draw import all_block_numbers, draw_blocks, hash_blocks, stream_key
from tests.pattern import reference

QUERY = "bert.encoder.layer.0.attention.self.query.weight"

# (seed, name, update): the key, and the hashes of blocks 0, 1, 2, 2**20 and 2**40 under it.
KNOWN_ANSWERS = [
    (
        (0, "", 0),
        0x0E7494F907A55052,
        [0xC4771954357CAC8F, 0x3178960B20CBB830, 0x5F5B1A88D57C9B28, 0x888AAEADC1775E91, 0x3186436631966C95],
    ),
    (
        (42, QUERY, 0),
        0x28B4549B3D5C2DF5,
        [0x879B5E58ABDD5987, 0xC5FCDE5C6AEA86EE, 0xD1DF622E7C7B7887, 0x7656CC627C082E29, 0x9BC2771F407C6790],
    ),
    (
        (42, QUERY, 3),
        0xAA83A2ECEABC7CF9,
        [0x5BB080B3317BE1C0, 0x7A5947D242D174BB, 0x7FC3D68B709F41EC, 0x9E4199AE8B5CA096, 0x3878ECA963CC83A9],
    ),
    (
        (43, QUERY, 3),
        0xB808E1583F36EBFF,
        [0x83F3AED422EC1138, 0x66EB5C3A64A0364D, 0x1C496DB892D762F1, 0x50A31662B674E7F6, 0xCEE729E1E3F17ED8],
    ),
    (
        (2**63 - 1, "gewicht.é", 159),
        0x0D32B8893BE24690,
        [0xFB88F03C33BF7835, 0x1BCFD3B62AB17B6B, 0x021B8C7EB490D650, 0x310C4B7E79C0D97C, 0x598C2411222DF48F],
    ),
]
KNOWN_BLOCKS = [0, 1, 2, 2**20, 2**40]

# SplitMix64's own published outputs, for the seeds 0 and 1234567: the generator is the one it is said to be.
PUBLISHED = {
    0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B],
    1234567: [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ],
}

STREAMS = st.tuples(st.integers(0, 2**63 - 1), st.text(max_size=30), st.integers(0, 10_000))


def unsigned(values: torch.Tensor) -> list[int]:
    return [value & (2**64 - 1) for value in values.tolist()]


@pytest.mark.parametrize(("stream", "key", "hashes"), KNOWN_ANSWERS)
def test_known_answers(stream: tuple[int, str, int], key: int, hashes: list[int]) -> None:
    blocks = torch.tensor(KNOWN_BLOCKS)
    assert stream_key(*stream) == key
    assert unsigned(hash_blocks(key, blocks)) == hashes
    assert draw_blocks(key, blocks).tolist() == [value >> 1 for value in hashes]


@pytest.mark.parametrize("seed", PUBLISHED)
def test_it_is_splitmix64(seed: int) -> None:
    assert unsigned(hash_blocks(seed, all_block_numbers(5))) == PUBLISHED[seed]


@given(STREAMS, st.lists(st.integers(0, 2**62), max_size=20))
def test_matches_big_integers(stream: tuple[int, str, int], blocks: list[int]) -> None:
    key = stream_key(*stream)
    assert key == reference.key(*stream)
    hashes = hash_blocks(key, torch.tensor(blocks, dtype=torch.int64))
    assert unsigned(hashes) == [reference.splitmix64(key, block) for block in blocks]
    draws = draw_blocks(key, torch.tensor(blocks, dtype=torch.int64))
    assert draws.tolist() == [reference.draw(*stream, block) for block in blocks]


def test_a_draw_does_not_depend_on_what_is_drawn_with_it() -> None:
    key = stream_key(1, QUERY, 7)
    every = draw_blocks(key, all_block_numbers(50_000))
    some = torch.tensor([49_999, 3, 16_384, 16_383, 0])
    assert torch.equal(draw_blocks(key, some), every[some])
    assert every.min() >= 0


@given(STREAMS, STREAMS)
def test_streams_have_different_keys(one: tuple[int, str, int], other: tuple[int, str, int]) -> None:
    assert (stream_key(*one) == stream_key(*other)) == (one == other)


def test_draws_are_all_different() -> None:
    # Different hashes by construction (SplitMix64 is a bijection); the lowest bit is cut off, which keeps nearly all.
    draws = draw_blocks(stream_key(5, QUERY, 1), all_block_numbers(1 << 20))
    assert draws.unique().numel() == 1 << 20


def test_every_bit_is_fair() -> None:
    num_draws = 1 << 16
    draws = draw_blocks(stream_key(11, QUERY, 1), all_block_numbers(num_draws))
    # A count of ones is binomial; 5.5 standard deviations are passed by a fair bit once in 26 million, there are 63.
    limit = 5.5 * (num_draws / 4) ** 0.5
    for bit in range(63):
        num_ones = int(((draws >> bit) & 1).sum())
        assert abs(num_ones - num_draws / 2) < limit, f"bit {bit}"


@pytest.mark.gpu
@pytest.mark.parametrize("stream", [case[0] for case in KNOWN_ANSWERS])
def test_gpu_draws_as_cpu(stream: tuple[int, str, int]) -> None:
    key = stream_key(*stream)
    on_gpu = draw_blocks(key, all_block_numbers(100_000, "cuda")).cpu()
    assert torch.equal(on_gpu, draw_blocks(key, all_block_numbers(100_000)))
