"""Buckets keep their rows, and the pairs of equal keys are the same however a bucket comes in chunks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.duplicates.near import FIRST_OF_RUN, band_keys, distinct_pairs, pairs_in
from data_prep.duplicates.runs import runs
from data_prep.duplicates.signature import MinHashOptions
from data_prep.duplicates.spill import Rows, Spill, bucket_of

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=30)


def in_chunks(rows: Rows, size: int) -> Iterator[Rows]:
    return (rows[begin : begin + size] for begin in range(0, len(rows), size))


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2**64 - 1)), max_size=60),
    st.integers(0, 300),
    st.integers(1, 9),
)
def test_buckets_keep_rows_in_order(added: list[tuple[int, int]], buffer_bytes: int, max_rows: int) -> None:
    buckets, rows = np.array([one[0] for one in added], np.int64), np.array(added, np.uint64).reshape(-1, 2)
    with tempfile.TemporaryDirectory() as folder:
        spill = Spill(Path(folder, "spill"), num_columns=2, num_buckets=7, buffer_bytes=buffer_bytes)
        for begin in range(0, len(rows), 11):
            spill.add(rows[begin : begin + 11], buckets[begin : begin + 11])
        spill.end()
        for bucket in range(7):
            chunks = list(spill.chunks(bucket, max_rows))
            assert all(1 <= len(chunk) <= max_rows for chunk in chunks)
            assert [row for chunk in chunks for row in chunk.tolist()] == rows[buckets == bucket].tolist()
            spill.remove(bucket)
            assert not list(spill.chunks(bucket, max_rows))
        spill.close()
        assert not Path(folder, "spill").exists()


@pytest.mark.parametrize("num_buckets", [1, 2, 1000, 2**20])
def test_buckets_are_of_equal_size(num_buckets: int) -> None:
    hashes = np.array([0, 2**32 - 1, 2**63, 2**64 - 1], np.uint64)
    assert bucket_of(hashes, num_buckets).tolist() == [0, 0, num_buckets // 2, num_buckets - 1]


@given(PAIRS, st.integers(1, 3), st.integers(1, 40))
def test_runs_show_each_row_once_with_the_first_of_its_key(
    keys: list[tuple[int, int]], num_kept: int, size: int
) -> None:
    rows = np.array([(*key, unit) for unit, key in enumerate(keys)], np.uint64).reshape(-1, 3)
    seen = {}
    for found in runs(in_chunks(rows, size), num_kept=num_kept):
        for place in np.flatnonzero(found.is_new_M):
            first, rank = found.first_M[place], int(found.rank_M[place])
            earliest = found.units_M[first : first + min(rank, num_kept)].tolist()
            assert int(found.units_M[place]) not in seen
            seen[int(found.units_M[place])] = earliest
    assert seen == {
        unit: [other for other in range(unit) if keys[other] == key][:num_kept] for unit, key in enumerate(keys)
    }


@pytest.mark.parametrize("size", [1, 3, 17, 1000])
def test_all_pairs_of_the_first_of_a_run_and_two_for_each_other(size: int) -> None:
    chosen = np.random.default_rng(1).choice(3, 200, p=[0.75, 0.2, 0.05])
    keys = np.array([5, 6, 2**64 - 1], np.uint64)[chosen]
    rows = np.stack([keys, np.arange(200, dtype=np.uint64)], axis=1)
    pairs = [
        (int(later), int(earlier))
        for found in runs(in_chunks(rows, size), num_kept=FIRST_OF_RUN)
        for some in pairs_in(found)
        for later, earlier in some
    ]
    expected = set()
    for key in set(keys.tolist()):
        units = np.flatnonzero(keys == key).tolist()
        for rank, later in enumerate(units):
            expected |= {(later, earlier) for earlier in units[: rank if rank < FIRST_OF_RUN else 2]}
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == expected


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 90)), max_size=300), st.integers(1, 50))
def test_distinct_pairs_are_in_order_and_no_more_than_64_of_a_unit(pairs: list[tuple[int, int]], size: int) -> None:
    rows = np.array(pairs, np.uint64).reshape(-1, 2)
    expected = [pair for later in range(5) for pair in sorted({one for one in pairs if one[0] == later})[:64]]
    assert [(*pair,) for pair in distinct_pairs(in_chunks(rows, size)).tolist()] == expected


def test_the_earliest_64_of_a_unit_are_kept_of_any_number() -> None:
    rows = np.stack([np.full(1000, 2000, np.uint64), np.arange(1000, dtype=np.uint64)[::-1]], axis=1)
    assert distinct_pairs(in_chunks(rows, 70))[:, 1].tolist() == list(range(64))


def test_bands_are_equal_where_all_their_values_are_in_their_order() -> None:
    options = MinHashOptions(num_permutations=16, threshold=0.9)
    assert options.bands == (5, 3)
    values = np.array([[*range(16)], [1, 0, *range(2, 16)], [3, 4, 5, 0, 1, 2, *range(6, 15), 99]], np.uint32)
    keys = band_keys(values, options)
    assert (keys[0] == keys[1]).tolist() == [False] + [True] * 4
    assert (keys[0] == keys[2]).tolist() == [False, False, True, True, True]
    assert len(np.unique(keys)) == 5 + 1 + 2
