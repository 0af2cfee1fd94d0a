"""Rows with equal keys, found in one bucket of a `Spill` in memory that does not grow with how often a key occurs.

Shapes: M rows, K columns of keys and one more with the number of a unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.duplicates.spill import Rows


@dataclass(frozen=True, eq=False)
class Runs:
    """Rows in the order of their keys, and of their units where keys are equal: a run."""

    units_M: NDArray[np.uint64]
    first_M: NDArray[np.int64]
    """Row with which the run of each row begins."""
    rank_M: NDArray[np.int64]
    """Place of each row in its run, from 0. Right below `num_kept`, and at least `num_kept` wherever it is in truth."""
    is_new_M: NDArray[np.bool_]
    """Not yet in the `Runs` before; those that are, are here for the new ones to be compared with."""


def runs(chunks: Iterable[Rows], *, num_kept: int) -> Iterator[Runs]:
    """The runs in a bucket that comes in chunks.

    From one chunk to the next go the first rows of each run, so a key that a million rows have takes the memory of
    `num_kept` of them.

    Args:
        chunks: uint64 [M, K + 1], keys and a unit; the units of a key ascend.
        num_kept: rows of a run which the later ones of the same key are to be seen with, at least 1.
    """
    kept: Rows | None = None
    for chunk in chunks:
        num_old = 0 if kept is None else len(kept)
        rows = chunk if kept is None else np.concatenate([kept, chunk])
        keys = rows.shape[1] - 1
        order = np.argsort(rows[:, 0], kind="stable") if keys == 1 else np.lexsort(rows[:, keys - 1 :: -1].T)
        rows = rows[order]
        begins = np.ones(len(rows), np.bool_)
        begins[1:] = np.any(rows[1:, :keys] != rows[:-1, :keys], axis=1)
        places = np.arange(len(rows))
        first = np.maximum.accumulate(np.where(begins, places, 0))
        rank = places - first
        yield Runs(rows[:, keys], first, rank, order >= num_old)
        kept = rows[rank < num_kept]
