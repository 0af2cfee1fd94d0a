"""Counter-based random numbers: a draw is a hash of (seed, weight name, update number, block number).

There is no generator state to carry, so a run that resumes, a run on other ranks and a run on another device all draw
the same numbers. Everything is 64-bit integer arithmetic, which CPU and GPU perform alike.

The generator is SplitMix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195): the state of block
`i` is `key + (i + 1) * GOLDEN_GAMMA`, and the draw is that state through the output function `mix`. The key is a
BLAKE2b hash, so streams of different weights, updates and seeds have nothing to do with each other.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = 0x94D049BB133111EB
_CPU_CHUNK = 1 << 14  # elements

Unsigned = NDArray[np.uint64]


def stream_key(seed: int, name: str, update: int) -> int:
    """The 64-bit key of the stream of draws that one weight uses at one update.

    Args:
        seed: the run's pattern seed, 0 <= seed < 2**63.
        name: the weight's parameter name.
        update: 0 for the initial pattern, then the number of the update, from 1.
    """
    counters = seed.to_bytes(8, "little") + update.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(counters + name.encode(), digest_size=8).digest(), "little")


def mix(state_N: Tensor) -> Tensor:
    """SplitMix64's output function over int64 tensors that stand for unsigned 64-bit integers. Returns a new tensor."""
    x = state_N ^ _shift_right(state_N, 30)
    x *= _signed(_MULTIPLIER_1)
    x ^= _shift_right(x, 27)
    x *= _signed(_MULTIPLIER_2)
    x ^= _shift_right(x, 31)
    return x


def hash_blocks(key: int, block_numbers_N: Tensor) -> Tensor:
    """The 64-bit hash of each block number under a stream key.

    Args:
        key: from `stream_key`.
        block_numbers_N: int64, block numbers >= 0.

    Returns:
        int64 [N], the bits of an unsigned 64-bit hash.
    """
    return _hashes(key, block_numbers_N, bits_off=0)


def _hashes(key: int, numbers_N: Tensor, *, bits_off: int) -> Tensor:
    """int64 [N], the hashes without their lowest `bits_off` bits."""
    if numbers_N.device.type != "cpu":
        hashes_N = mix((numbers_N + 1) * _signed(GOLDEN_GAMMA) + _signed(key))
        return _shift_right(hashes_N, bits_off) if bits_off else hashes_N
    hashes_N = torch.empty_like(numbers_N, memory_format=torch.contiguous_format)
    _hash_in_cache(key, _unsigned(numbers_N.contiguous()), _unsigned(hashes_N), bits_off)
    return hashes_N


def _hash_in_cache(key: int, numbers_N: Unsigned, hashes_N: Unsigned, bits_off: int) -> None:
    """As on a GPU, in a third of the time: temporaries stay in cache, and numpy's shifts are logical."""
    spare = np.empty(min(_CPU_CHUNK, len(numbers_N)), np.uint64)
    first_state = np.uint64((key + GOLDEN_GAMMA) % (1 << 64))
    for start in range(0, len(numbers_N), _CPU_CHUNK):
        x = hashes_N[start : start + _CPU_CHUNK]
        shifted = spare[: len(x)]
        np.multiply(numbers_N[start : start + _CPU_CHUNK], np.uint64(GOLDEN_GAMMA), out=x)
        x += first_state
        for bits, multiplier in ((30, _MULTIPLIER_1), (27, _MULTIPLIER_2), (31, 1)):
            np.right_shift(x, np.uint64(bits), out=shifted)
            x ^= shifted
            if multiplier != 1:
                x *= np.uint64(multiplier)
        if bits_off:
            x >>= np.uint64(bits_off)


def draw_blocks(key: int, block_numbers_N: Tensor) -> Tensor:
    """The random draw of each block: the upper 63 bits of its hash, so that int64 order is the order of the draws.

    Returns:
        int64 [N], each in [0, 2**63).
    """
    return _hashes(key, block_numbers_N, bits_off=1)


def all_block_numbers(num_blocks: int, device: torch.device | str = "cpu") -> Tensor:
    """int64 [num_blocks]: 0, 1, 2, …"""
    return torch.arange(num_blocks, dtype=torch.int64, device=device)


def _unsigned(numbers_N: Tensor) -> Unsigned:
    """The same memory as unsigned integers."""
    return numbers_N.numpy().view(np.uint64)


def _signed(unsigned: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit integer."""
    return unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's `>>` on int64 copies the sign bit, which the mask takes away again."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
