"""Windows against a slow, obvious version, and what they promise."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsparse.data import windows as windows_module
from dsparse.data.shards import ShardedStore
from dsparse.data.windows import Windows
from tests.data.small import write_shards

Window = tuple[int, int, int]
"""Document, first and past sentence."""

DOCUMENTS = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=12), min_size=1, max_size=9)
"""Numbers of tokens by document and sentence."""


def windows_by_hand(lengths: list[list[int]], max_tokens: int) -> list[Window]:
    """Document by document and stretch by stretch, as one would explain it."""
    found: list[Window] = []
    begin = 0
    for number, document in enumerate(lengths):
        bounds = [0, *itertools.accumulate(document)]
        if len(document) >= 2:
            stretch = max_tokens + bounds[-1] // (2 * len(document))
            num_windows = -(-bounds[-1] // stretch)
            cuts = [Fraction(i * bounds[-1], num_windows) // 1 for i in range(num_windows + 1)]
            for start, end in itertools.pairwise(cuts):
                first, past = nearest(bounds, start), nearest(bounds, end)
                if first == past:
                    # The sentence that the stretch ends in.
                    first = min(first, max(i for i in range(len(document)) if bounds[i] <= end))
                first = min(first, len(document) - 2)
                found.append((number, begin + first, begin + max(past, first + 2)))
        begin += len(document)
    return found


def nearest(bounds: list[int], token: int) -> int:
    """The first of the bounds that are nearest to a token."""
    return min(range(len(bounds)), key=lambda i: (abs(bounds[i] - token), i))


def store_of_lengths(folder: Path, lengths: list[list[int]], sizes: list[int] | None = None) -> ShardedStore:
    return write_shards(folder, [[[7] * length for length in document] for document in lengths], sizes=sizes)


def found(windows: Windows) -> list[Window]:
    documents, first, past = windows.find(np.arange(len(windows)))
    assert documents.dtype == first.dtype == past.dtype == np.int64
    return list(zip(documents.tolist(), first.tolist(), past.tolist(), strict=True))


@given(
    lengths=DOCUMENTS,
    max_tokens=st.integers(1, 60),
    group=st.sampled_from([1, 2, 5, 64]),
    at_once=st.sampled_from([1, 3]),
    cut=st.integers(0, 9),
)
def test_windows(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], max_tokens: int, group: int, at_once: int,
    cut: int,
) -> None:  # fmt: skip
    cut = min(cut, len(lengths))
    store = store_of_lengths(tmp_path_factory.mktemp("windows"), lengths, [cut, len(lengths) - cut])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows_module, "_GROUP", group)
        patch.setattr(windows_module, "_GROUPS_AT_ONCE", at_once)
        windows = Windows(store, max_tokens)
        assert found(windows) == windows_by_hand(lengths, max_tokens)
        backwards = np.arange(len(windows))[::-1]
        assert [tuple(row) for row in np.stack(windows.find(backwards), 1).tolist()] == found(windows)[::-1]


def test_windows_of_a_document(tmp_path: Path) -> None:
    # 32 tokens in stretches of at most 9 + 2, so three: cut at 10 and 21, nearest bounds 8 and 20, the first of two
    # each time. One sentence has no window, two short ones have one.
    store = store_of_lengths(tmp_path, [[4, 4, 4, 4, 4, 2, 5, 5], [50], [1, 1]])
    assert found(Windows(store, 9)) == [(0, 0, 2), (0, 2, 5), (0, 5, 8), (2, 9, 11)]


def test_a_long_sentence_is_in_several_windows_with_a_neighbour(tmp_path: Path) -> None:
    # 108 tokens of three sentences, stretches of at most 18 + 18: three, and the second sentence is most of each.
    store = store_of_lengths(tmp_path, [[4, 100, 4]])
    assert found(Windows(store, 18)) == [(0, 0, 2), (0, 1, 3), (0, 1, 3)]


def test_short_sentences_are_shared_out(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    lengths = [random.integers(3, 30, random.integers(1, 120)).tolist() for _ in range(300)]
    store = store_of_lengths(tmp_path, lengths)
    windows = Windows(store, 125)
    documents, first, past = windows.find(np.arange(len(windows)))
    is_same = documents[1:] == documents[:-1]
    assert (first[1:] == past[:-1])[is_same].all() and is_same.sum() > 1000
    covered = np.zeros(store.num_sentences, int)
    for a, b in zip(first, past, strict=True):
        covered[a:b] += 1
    sizes = np.asarray([len(document) for document in lengths])
    assert np.array_equal(covered, np.repeat(sizes >= 2, sizes))
    tokens = np.diff(store.token_offsets(np.stack([first, past])), axis=0)[0]
    assert tokens.max() < 125 + 3 * 30 and tokens[is_same.nonzero()[0]].min() > 125 / 2


def test_none(tmp_path: Path) -> None:
    assert len(Windows(write_shards(tmp_path, []), 8)) == 0
    assert found(Windows(store_of_lengths(tmp_path, [[5], [6]]), 8)) == []
