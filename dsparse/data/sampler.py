"""The order of samples, without a table: position to (epoch, sample index) is a keyed permutation.

A Feistel network is a bijection of 2k-bit numbers whatever its round function; walking along the cycle until the value
falls below n makes it one of [0, n) (Black and Rogaway 2002, https://doi.org/10.1007/3-540-45760-7_9). So any rank,
worker or resumed run finds the sample of any position in constant time and memory.
"""

from __future__ import annotations

import numpy as np

_ROUNDS = 6
_UINT64 = (1 << 64) - 1

PURPOSE_PAIR, PURPOSE_MASK, PURPOSE_ORDER = 1, 2, 3


def generator(seed: int, purpose: int, epoch: int, index: int) -> np.random.Generator:
    """Random numbers that are a function of the arguments alone (Philox, a counter-based generator)."""
    return np.random.Generator(np.random.Philox(key=[seed & _UINT64, purpose], counter=[0, index, epoch, 0]))


def sample_at(position: int, num_samples: int, seed: int) -> tuple[int, int]:
    """(epoch, sample index) of a position in the endless global order; every epoch visits each sample once."""
    epoch, place = divmod(position, num_samples)
    return epoch, permute(place, num_samples, _mix(seed ^ _mix(epoch ^ _mix(PURPOSE_ORDER))))


def permute(place: int, size: int, key: int) -> int:
    """Where a keyed random permutation of [0, size) sends `place`."""
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    half = (1 << half_bits) - 1
    value = place
    while True:
        left, right = value >> half_bits, value & half
        for number in range(_ROUNDS):
            left, right = right, left ^ (_mix(key + (number << 56) + right) & half)
        value = (left << half_bits) | right
        if value < size:
            return value


def _mix(x: int) -> int:
    """SplitMix64's step: a bijection of 64-bit numbers that scatters them."""
    x = (x + 0x9E3779B97F4A7C15) & _UINT64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _UINT64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _UINT64
    return x ^ (x >> 31)
