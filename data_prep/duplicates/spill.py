"""Rows of integers, too many for memory, sorted into buckets: each bucket is a file, and small enough to be read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.uint64]


class Spill:
    """Buckets of rows of C integers; within a bucket the rows stay in the order in which they were added.

    In memory are `buffer_bytes`, and less than twice as much while the buffer is written out.
    """

    def __init__(self, folder: Path, *, num_columns: int, num_buckets: int, buffer_bytes: int) -> None:
        """Makes the folder.

        Args:
            folder: must not exist; removed by `close`.
            num_columns: C.
            num_buckets: at least 1.
            buffer_bytes: of rows that wait to be written.
        """
        folder.mkdir(parents=True)
        self._folder = folder
        self._num_columns = num_columns
        self.num_buckets = num_buckets
        capacity = max(buffer_bytes // (8 * num_columns), 1)
        self._rows: Rows = np.empty((capacity, num_columns), np.uint64)
        self._buckets = np.empty(capacity, np.uint32)
        self._size = 0

    def add(self, rows_MC: Rows, buckets_M: NDArray[np.integer]) -> None:
        """Adds rows.

        Args:
            rows_MC: uint64 [M, C].
            buckets_M: the bucket of each, 0 <= bucket < num_buckets.
        """
        done = 0
        while done < len(rows_MC):
            count = min(len(self._rows) - self._size, len(rows_MC) - done)
            self._rows[self._size : self._size + count] = rows_MC[done : done + count]
            self._buckets[self._size : self._size + count] = buckets_M[done : done + count]
            self._size += count
            done += count
            if self._size == len(self._rows):
                self._flush()

    def end(self) -> None:
        """No rows will follow: writes what waits and frees the buffer."""
        self._flush()
        self._rows, self._buckets = self._rows[:0].copy(), self._buckets[:0].copy()

    def chunks(self, bucket: int, max_rows: int) -> Iterator[Rows]:
        """The rows of a bucket in order, uint64 [M, C] with 1 <= M <= max_rows at a time."""
        path = self._path(bucket)
        if not path.exists():
            return
        with open(path, "rb") as stream:
            while len(values := np.fromfile(stream, np.uint64, max_rows * self._num_columns)):
                yield values.reshape(-1, self._num_columns)

    def remove(self, bucket: int) -> None:
        """Frees the disk of a bucket."""
        self._path(bucket).unlink(missing_ok=True)

    def close(self) -> None:
        """Removes everything."""
        shutil.rmtree(self._folder)

    def _flush(self) -> None:
        order = np.argsort(self._buckets[: self._size], kind="stable")
        bounds = np.searchsorted(self._buckets[: self._size], np.arange(self.num_buckets + 1), sorter=order)
        for bucket in np.flatnonzero(np.diff(bounds)):
            with open(self._path(int(bucket)), "ab") as stream:
                self._rows[order[bounds[bucket] : bounds[bucket + 1]]].tofile(stream)
        self._size = 0

    def _path(self, bucket: int) -> Path:
        return self._folder / f"{bucket}.rows"


def bucket_of(hashes_M: NDArray[np.uint64], num_buckets: int) -> NDArray[np.uint64]:
    """Buckets of equal expected size by the upper half of a hash, uint64 [M]."""
    return ((hashes_M >> np.uint64(32)) * np.uint64(num_buckets)) >> np.uint64(32)
