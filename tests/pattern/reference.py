"""Slow and obvious versions of what `dsparse.pattern` does fast, in plain Python numbers, and cases to try them on."""

from __future__ import annotations

import hashlib

import torch
from hypothesis import strategies as st

from dsparse.pattern.block_pattern import BlockPattern

BLOCKS = (1, 2, 4, 8, 16, 32, 64)
_UINT64 = (1 << 64) - 1


def key(seed: int, name: str, update: int) -> int:
    """BLAKE2b-64 of two little-endian counters and the name."""
    message = seed.to_bytes(8, "little") + update.to_bytes(8, "little") + name.encode("utf-8")
    return int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "little")


def splitmix64(seed: int, position: int) -> int:
    """Output `position` (from 0) of SplitMix64 begun at `seed`, in unsigned integers of any length cut to 64 bits."""
    z = (seed + (position + 1) * 0x9E3779B97F4A7C15) & _UINT64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _UINT64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _UINT64
    return z ^ (z >> 31)


def draw(seed: int, name: str, update: int, block_number: int) -> int:
    """The upper 63 bits of the hash."""
    return splitmix64(key(seed, name, update), block_number) >> 1


def smallest(scores: list, block_numbers: list[int], k: int) -> list[int]:
    """Positions of the k smallest by (score, block number), ascending."""
    return sorted(sorted(range(len(scores)), key=lambda i: (scores[i], block_numbers[i]))[:k])


@st.composite
def shapes(draw: st.DrawFn, max_side: int = 6) -> tuple[tuple[int, int], int]:
    """((O, I), b): every block size, square, wide and tall grids."""
    block = draw(st.sampled_from(BLOCKS))
    rows, cols = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    return (rows * block, cols * block), block


@st.composite
def patterns(draw: st.DrawFn, max_side: int = 6, min_active: int = 1) -> BlockPattern:
    """A pattern of any shape and density, its slots in any order."""
    shape, block = draw(shapes(max_side))
    num_blocks = (shape[0] // block) * (shape[1] // block)
    order = draw(st.permutations(range(num_blocks)))
    num_active = draw(st.integers(min(min_active, num_blocks), num_blocks))
    return pattern_of(order[:num_active], shape, block)


def pattern_of(block_numbers: list[int], shape: tuple[int, int], block: int) -> BlockPattern:
    """The pattern with these blocks in slots 0, 1, 2, …"""
    return BlockPattern.from_block_numbers(torch.tensor(block_numbers, dtype=torch.int64), shape, block)
