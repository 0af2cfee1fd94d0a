"""The order of samples: position in the run → (epoch, sample number), computed, never stored.

Each epoch is another pseudo-random permutation of all samples. It is a Feistel cipher over the smallest square power of
two that holds them (Luby and Rackoff 1988), walked until it lands inside (Black and Rogaway 2002, "cycle walking").
A cipher is a bijection whatever its round function is, so every sample comes exactly once an epoch; looking up one
position costs the same in a corpus of a thousand samples and of a billion, and needs no table.

Shapes: B positions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dsparse.data.draw import Draws, draws, mix, stream_key

_NUM_ROUNDS = 8
_PURPOSE = "order of samples"


def locate(
    positions_B: NDArray[np.int64], *, num_samples: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which samples stand at these positions of a run.

    Args:
        positions_B: int64, counted from the run's first sample; position p is in epoch p // num_samples.
        num_samples: samples in one epoch, >= 1.
        seed: the run's data seed.

    Returns:
        epochs, int64 [B], and sample numbers, int64 [B], in [0, num_samples).
    """
    epochs_B = positions_B // num_samples
    places_B = positions_B % num_samples
    numbers_B = np.empty_like(places_B)
    for epoch in np.unique(epochs_B):
        here = epochs_B == epoch
        key = stream_key(seed, int(epoch), _PURPOSE)
        numbers_B[here] = permute(places_B[here], num=num_samples, key=key)
    return epochs_B, numbers_B


def permute(numbers_B: NDArray[np.int64], *, num: int, key: int) -> NDArray[np.int64]:
    """Applies the permutation of [0, num) that belongs to a key.

    Args:
        numbers_B: int64 in [0, num).
        num: how many numbers are permuted, 1 <= num <= 2**62.
        key: 64-bit key from `stream_key`.

    Returns:
        int64 [B], in [0, num).
    """
    half_bits = max(1, ((num - 1).bit_length() + 1) // 2)
    round_keys = draws(key, np.arange(_NUM_ROUNDS))
    permuted_B = _feistel(numbers_B.astype(np.uint64), half_bits, round_keys)
    # The cipher's domain is less than four times as large: each walk needs a few steps on average.
    while len(outside := np.flatnonzero(permuted_B >= num)):
        permuted_B[outside] = _feistel(permuted_B[outside], half_bits, round_keys)
    return permuted_B.astype(np.int64)


def _feistel(numbers: Draws, half_bits: int, round_keys: Draws) -> Draws:
    """A permutation of [0, 4**half_bits), uint64 in and out."""
    mask, shift = np.uint64((1 << half_bits) - 1), np.uint64(half_bits)
    left, right = numbers >> shift, numbers & mask
    for round_key in round_keys:
        left, right = right, left ^ (mix(right ^ round_key) & mask)
    return (left << shift) | right
