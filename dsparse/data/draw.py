"""Counter-based random numbers for samples: a draw is a hash of (seed, epoch, purpose, sample, counter).

There is no generator to carry along, so any sample of any epoch can be made by itself, on any rank or worker process,
and a run resumes by knowing one integer. The generator is SplitMix64 (Steele, Lea and Flood 2014,
https://doi.org/10.1145/2660193.2660195), as in `dsparse.pattern.draw`, here over numpy arrays because batches are made
on the CPU: value n of the stream with key k is `mix(k + (n + 1) * GOLDEN_GAMMA)`, and a value can be the key of a
further stream.

Shapes: B samples, N any number of draws.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Draws = NDArray[np.uint64]

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)
_SHIFTS = tuple(np.uint64(bits) for bits in (30, 27, 31))
_HALF, _LOWER_HALF = np.uint64(32), np.uint64(2**32 - 1)
_MOST_OF_HALF_A_DRAW = np.uint64(2**20)


def stream_key(seed: int, epoch: int, purpose: str) -> int:
    """The 64-bit key of the stream that serves one purpose in one epoch.

    Args:
        seed: the run's data seed, 0 <= seed < 2**63.
        epoch: number of the pass over the corpus, from 0.
        purpose: what the draws decide, so that no two decisions share a draw.
    """
    counters = seed.to_bytes(8, "little") + epoch.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(counters + purpose.encode(), digest_size=8).digest(), "little")


def draws(keys: Draws | int, counters: NDArray[np.integer] | int) -> Draws:
    """The values at places `counters` of the streams with the given keys; the two are broadcast.

    Args:
        keys: uint64, or one key as an integer.
        counters: integers >= 0.

    Returns:
        uint64, uniform over all of its values.
    """
    # Arrays wrap around silently, which is what is wanted; numpy's scalars would warn.
    keys_N = np.atleast_1d(np.asarray(keys, dtype=np.uint64))
    places_N = np.atleast_1d(np.asarray(counters)).astype(np.uint64) + np.uint64(1)
    states_N: Draws = keys_N + places_N * GOLDEN_GAMMA
    return mix(states_N)


def mix(state_N: Draws) -> Draws:
    """SplitMix64's output function. Returns a new array."""
    x = state_N ^ (state_N >> _SHIFTS[0])
    x *= _MULTIPLIER_1
    x ^= x >> _SHIFTS[1]
    x *= _MULTIPLIER_2
    x ^= x >> _SHIFTS[2]
    return x


def below(draws_N: Draws, limits: NDArray[np.integer] | int) -> NDArray[np.int64]:
    """Draws as integers in [0, limit).

    Args:
        draws_N: from `draws`.
        limits: 1 <= limit < 2**63, one for all or one for each.

    Returns:
        int64 [N]. Uniform but for a bias below 2**-12: up to a limit of 2**20 the upper half of a draw decides, beyond
        it all of its bits.
    """
    limits_N = np.asarray(limits).astype(np.uint64)
    is_wide_N = limits_N > _MOST_OF_HALF_A_DRAW
    upper_N = draws_N >> _HALF
    if not is_wide_N.any():
        return (upper_N * limits_N >> _HALF).astype(np.int64)
    # The upper 64 of the 128 bits of draw * limit. Where the limit is small the draw's lower half is left out, as it
    # is above: what comes of a draw does not depend on the limits of others.
    lower_N = np.where(is_wide_N, draws_N & _LOWER_HALF, np.uint64(0))
    limit_upper_N, limit_lower_N = limits_N >> _HALF, limits_N & _LOWER_HALF
    middle_N = upper_N * limit_lower_N + (lower_N * limit_lower_N >> _HALF)
    other_N = (middle_N & _LOWER_HALF) + lower_N * limit_upper_N
    return (upper_N * limit_upper_N + (middle_N >> _HALF) + (other_N >> _HALF)).astype(np.int64)


def happens(draws_N: Draws, probability: float) -> NDArray[np.bool_]:
    """Draws as events of a probability, bool [N]; the upper 53 bits decide, so 0 never and 1 always happens."""
    return (draws_N >> np.uint64(11)).astype(np.float64) * 2.0**-53 < probability
