"""Finds the duplicates in a whole corpus from the signatures of its parts, in bounded memory.

An index of bands in memory, as MinHash libraries have it, takes kilobytes a document. Here equal hashes meet on disk:
records of a hash and a unit go to buckets by their hash, each bucket fits in memory, and is sorted.

Of units with the same text the first stays. Of what is left, a unit goes if it is near an earlier one that itself
stays, so each unit that goes is near one that is there. Near are units that share a band and agree in a share
`threshold` of their MinHash values. Units that share a band are compared each with each if they are no more than
`near.FIRST_OF_RUN`, and the others with the first two; nothing else keeps the cost of a million like units from growing
with its square. The result is a function of the signatures in their order: not of the memory, nor of how the units are
divided into parts.

Shapes: N units of a part, M any number of units.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.duplicates.near import FIRST_OF_RUN, SignatureFiles, band_keys, distinct_pairs, pairs_in
from data_prep.duplicates.runs import runs
from data_prep.duplicates.signature import MinHashOptions, Signatures, read_header
from data_prep.duplicates.spill import Rows, Spill, bucket_of
from dsparse.errors import UserError

MEMORY_BYTES = 256 << 20
_BYTES_PER_ROW = 512
"""Of memory for each row of a bucket. Sorting takes a quarter of it, the buffers of spills the rest."""
_BYTES_PER_UNIT = 4096
"""Of memory for each unit whose pairs are looked at together: 64 of 16 bytes, four times while they are sorted."""


class Kind(IntEnum):
    """What is found of a unit."""

    KEPT = 0
    EXACT = 1
    """The same text as an earlier unit."""
    NEAR = 2


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Of the N units of one part in order."""

    kinds_N: NDArray[np.uint8]
    """A `Kind` each."""
    originals_N: NDArray[np.int64]
    """Number in the corpus of the unit that each duplicates, -1 for what is kept. A unit that goes as NEAR has one that
    is kept; one that goes as EXACT has the first with its text, which may be NEAR to another."""


class DuplicateFinder:
    """Joins the signatures of all parts.

    Takes `memory_bytes`, and with it an eighth of a byte for each unit and some hundred bytes for each part. On disk it
    takes 24 bytes for each unit, or 16 for each unit and band, and 16 for each pair of units and band they share.
    """

    def __init__(self, folder: Path, *, memory_bytes: int = MEMORY_BYTES) -> None:
        """Touches nothing.

        Args:
            folder: for temporary files. What is in it is removed when `find` begins, and the folder when it ends.
            memory_bytes: whatever it is, the result is the same; the smaller, the more files.
        """
        self._folder = folder
        self._memory_bytes = memory_bytes

    def find(self, paths: Sequence[Path], options: MinHashOptions | None) -> Iterator[Duplicates]:
        """What is a duplicate in each part, part by part.

        Args:
            paths: files of `Signatures.save`, one for each part in the order of the corpus; units are numbered through.
            options: those the signatures were made with; None finds equal texts only.

        Raises:
            UserError: a file is missing, truncated or made with other options.
            OSError: the disk is full.
        """
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        try:
            join = _Join(self._folder, self._memory_bytes, paths, options)
            join.find_exact()
            if options is not None:
                join.find_near(options)
            yield from join.found()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


class _Join:
    """One run of a finder."""

    def __init__(self, folder: Path, memory_bytes: int, paths: Sequence[Path], options: MinHashOptions | None) -> None:
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._paths = paths
        self._chunk_rows = max(memory_bytes // _BYTES_PER_ROW, 2)
        counts = [_num_units(path, options) for path in paths]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
        self._groups = _grouped(self._starts, max(memory_bytes // _BYTES_PER_UNIT, 1))
        self._gone = _Bits(int(self._starts[-1]))
        self._results = self._spill("results", num_columns=3, num_buckets=len(self._groups), share=16)

    def find_exact(self) -> None:
        """Finds units with equal texts."""
        hashes = self._spill("hashes", num_columns=3, num_buckets=self._num_buckets(int(self._starts[-1])), share=8)
        for number, path in enumerate(self._paths):
            exact_N2 = Signatures.load(path).exact_N2
            for begin in range(0, len(exact_N2), self._chunk_rows):
                piece = exact_N2[begin : begin + self._chunk_rows]
                units = np.arange(len(piece), dtype=np.uint64) + np.uint64(self._starts[number] + begin)
                hashes.add(np.column_stack([piece, units]), bucket_of(piece[:, 0], hashes.num_buckets))
        hashes.end()
        for bucket in range(hashes.num_buckets):
            for found in runs(hashes.chunks(bucket, self._chunk_rows), num_kept=1):
                is_again = found.is_new_M & (found.rank_M > 0)
                self._drop(found.units_M[is_again], found.units_M[found.first_M[is_again]], Kind.EXACT)
            hashes.remove(bucket)
        hashes.close()

    def find_near(self, options: MinHashOptions) -> None:
        """Finds units near another among those whose text is theirs alone."""
        bands = self._spilled_bands(options)
        pairs = self._spill("pairs", num_columns=2, num_buckets=len(self._groups), share=8)
        for bucket in range(bands.num_buckets):
            for found in runs(bands.chunks(bucket, self._chunk_rows), num_kept=FIRST_OF_RUN):
                for some in pairs_in(found):
                    pairs.add(some, self._group_of(some[:, 0]))
            bands.remove(bucket)
        bands.close()
        pairs.end()
        # In the order of the later unit, so that it is known of the earlier one whether it stays.
        files = SignatureFiles(self._paths, self._starts)
        num_at_once = max(self._memory_bytes // (64 * options.num_permutations), 1)
        for group in range(len(self._groups)):
            of_group = distinct_pairs(pairs.chunks(group, self._chunk_rows))
            for begin in range(0, len(of_group), num_at_once):
                self._compare(of_group[begin : begin + num_at_once], files, options.threshold)
            pairs.remove(group)
        pairs.close()

    def found(self) -> Iterator[Duplicates]:
        """The results, part by part."""
        self._results.end()
        bounds = [*self._groups.tolist(), len(self._paths)]
        for group, (first, last) in enumerate(itertools.pairwise(bounds)):
            start, end = int(self._starts[first]), int(self._starts[last])
            kinds, originals = np.zeros(end - start, np.uint8), np.full(end - start, -1, np.int64)
            for rows in self._results.chunks(group, self._chunk_rows):
                places = rows[:, 0].astype(np.int64) - start
                originals[places], kinds[places] = rows[:, 1], rows[:, 2]
            self._results.remove(group)
            for part in range(first, last):
                of_part = slice(int(self._starts[part]) - start, int(self._starts[part + 1]) - start)
                yield Duplicates(kinds[of_part].copy(), originals[of_part].copy())

    def _spilled_bands(self, options: MinHashOptions) -> Spill:
        """Rows of a band's hash and a unit."""
        num_bands, _ = options.bands
        num_buckets = self._num_buckets(int(self._starts[-1]) * num_bands)
        bands = self._spill("bands", num_columns=2, num_buckets=num_buckets, share=4)
        num_at_once = max(self._memory_bytes // (16 * (4 * options.num_permutations + 64 * num_bands)), 1)
        for number, path in enumerate(self._paths):
            signatures = Signatures.load(path)
            for begin in range(0, len(signatures), num_at_once):
                piece = signatures[begin : begin + num_at_once]
                units = np.arange(len(piece)) + self._starts[number] + begin
                is_compared = piece.has_near() & ~self._gone.holds(units)
                assert piece.minhash_NP is not None
                keys_MB = band_keys(piece.minhash_NP[is_compared], options)
                rows = np.column_stack([keys_MB.ravel(), np.repeat(units[is_compared], num_bands).astype(np.uint64)])
                bands.add(rows, bucket_of(rows[:, 0], num_buckets))
        bands.end()
        return bands

    def _compare(self, pairs_M2: Rows, files: SignatureFiles, threshold: float) -> None:
        """Drops the later units of pairs that are near, in order."""
        pairs_M2 = pairs_M2[~self._gone.holds(pairs_M2.astype(np.int64)).any(axis=1)]
        if not len(pairs_M2):
            return
        near = pairs_M2[files.estimates(pairs_M2) >= threshold]
        original_of: dict[int, int] = {}
        for later, earlier in near.tolist():
            if later not in original_of and earlier not in original_of:
                original_of[later] = earlier
        units, originals = (np.array([*values], np.uint64) for values in (original_of, original_of.values()))
        self._drop(units, originals, Kind.NEAR)

    def _drop(self, units_M: NDArray[np.uint64], originals_M: NDArray[np.uint64], kind: Kind) -> None:
        self._gone.add(units_M.astype(np.int64))
        kinds = np.full(len(units_M), kind, np.uint64)
        self._results.add(np.column_stack([units_M, originals_M, kinds]), self._group_of(units_M))

    def _group_of(self, units_M: NDArray[np.uint64]) -> NDArray[np.int64]:
        return np.searchsorted(self._starts[self._groups], units_M.astype(np.int64), side="right") - 1

    def _num_buckets(self, num_rows: int) -> int:
        """So many that a bucket is read at once, unless many of its rows are equal."""
        return num_rows * 4 // (self._chunk_rows * 3) + 1

    def _spill(self, name: str, *, num_columns: int, num_buckets: int, share: int) -> Spill:
        """Args: share: of the memory its buffer takes one such part."""
        buffer_bytes = self._memory_bytes // share
        return Spill(
            self._folder / name, num_columns=num_columns, num_buckets=max(num_buckets, 1), buffer_bytes=buffer_bytes
        )


class _Bits:
    """A set of numbers below a bound, a bit for each."""

    def __init__(self, bound: int) -> None:
        self._bytes = np.zeros((bound + 7) // 8, np.uint8)

    def add(self, numbers: NDArray[np.int64]) -> None:
        np.bitwise_or.at(self._bytes, numbers >> 3, np.left_shift(1, numbers & 7).astype(np.uint8))

    def holds(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        return (self._bytes[numbers >> 3] >> (numbers & 7)) & 1 == 1


def _num_units(path: Path, options: MinHashOptions | None) -> int:
    num_units, num_values = read_header(path)
    if options is not None and num_values != options.num_permutations:
        raise UserError(
            f"Expected {options.num_permutations} MinHash values for each text in {path}. "
            f"Got {num_values}: it was made with other options."
        )
    return num_units


def _grouped(starts: NDArray[np.int64], max_units: int) -> NDArray[np.int64]:
    """The parts with which groups of parts begin, of at most so many units where a group has more than one part."""
    firsts: list[int] = []
    for part in range(len(starts) - 1):
        if not firsts or starts[part + 1] - starts[firsts[-1]] > max_units:
            firsts.append(part)
    return np.array(firsts, np.int64)
