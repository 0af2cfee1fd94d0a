"""Which units are compared, and how near they are: bands of MinHash values.

Shapes: M units, P MinHash values, B bands.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.duplicates.runs import Runs
from data_prep.duplicates.signature import MinHashOptions, Signatures
from data_prep.duplicates.spill import Rows
from dsparse.data.draw import mix

FIRST_OF_RUN = 16
"""So many units that share a band, the earliest, are compared each with each."""
_FIRST_FOR_OTHERS = 2
"""With so many are all others compared: what a million units share is compared two million times, not 10**12."""
_MAX_EARLIER = 64
"""A unit is compared with no more than so many."""


def band_keys(minhash_MP: NDArray[np.uint32], options: MinHashOptions) -> NDArray[np.uint64]:
    """Hashes of the bands, uint64 [M, B]: equal for two units where all values of a band are; they differ by band."""
    num_bands, rows = options.bands
    values = minhash_MP[:, : num_bands * rows].reshape(-1, num_bands, rows)
    keys_MB = np.broadcast_to(mix(np.arange(num_bands, dtype=np.uint64)), values.shape[:2])
    for row in range(rows):
        keys_MB = mix(keys_MB ^ values[:, :, row])
    return keys_MB


def pairs_in(found: Runs) -> Iterator[Rows]:
    """Units to be compared, uint64 [M, 2], the later one first: the new ones of each run with the earliest of it."""
    rows = np.flatnonzero(found.is_new_M & (found.rank_M > 0))
    for place in range(FIRST_OF_RUN - 1):
        rank = found.rank_M[rows]
        is_compared = (rank > place) & ((place < _FIRST_FOR_OTHERS) | (rank < FIRST_OF_RUN))
        rows = rows[is_compared]
        if not len(rows):
            return
        yield np.stack([found.units_M[rows], found.units_M[found.first_M[rows] + place]], axis=1)


def distinct_pairs(chunks: Iterable[Rows]) -> Rows:
    """Pairs that come in chunks and many times, each once: in order of the later unit, then of the earlier one.

    Args:
        chunks: uint64 [M, 2] from `pairs_in`.

    Returns:
        uint64 [M, 2], with the earliest 64 of each later unit.
    """
    pairs: Rows = np.empty((0, 2), np.uint64)
    for chunk in chunks:
        pairs = np.concatenate([pairs, chunk])
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
        is_other = np.ones(len(pairs), np.bool_)
        is_other[1:] = np.any(pairs[1:] != pairs[:-1], axis=1)
        pairs = pairs[is_other]
        rank = np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0])
        pairs = pairs[rank < _MAX_EARLIER]
    return pairs


class SignatureFiles:
    """MinHash values of any units, read from the files of their parts."""

    def __init__(self, paths: Sequence[Path], starts: NDArray[np.int64]) -> None:
        """Opens nothing.

        Args:
            paths: written by `Signatures.save`.
            starts: int64 [files + 1], the unit with which each file begins, then the number of all.
        """
        self._paths = paths
        self._starts = starts

    def estimates(self, pairs_M2: Rows) -> NDArray[np.float64]:
        """Estimated Jaccard similarity of pairs of units, float64 [M]."""
        units, places = np.unique(pairs_M2.astype(np.int64), return_inverse=True)
        values = self._values(units)
        first, second = places.reshape(-1, 2).T
        return np.count_nonzero(values[first] == values[second], axis=1) / values.shape[1]

    def _values(self, units: NDArray[np.int64]) -> NDArray[np.uint32]:
        """uint32 [M, P] of units in ascending order."""
        files = np.searchsorted(self._starts, units, side="right") - 1
        bounds = [0, *(np.flatnonzero(np.diff(files)) + 1).tolist(), len(units)]
        found = []
        for begin, end in itertools.pairwise(bounds):
            file = int(files[begin])
            minhash_NP = Signatures.load(self._paths[file]).minhash_NP
            assert minhash_NP is not None
            found.append(minhash_NP[units[begin:end] - self._starts[file]])
        return np.concatenate(found)
