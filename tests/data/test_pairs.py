"""The properties a pair must have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsparse.data.draw import draws
from dsparse.data.pairs import Pairs, make_pairs, shares
from dsparse.data.shards import ShardedStore
from dsparse.data.vocabulary import Vocabulary
from dsparse.data.windows import Windows
from tests.data.small import random_documents, write_shards, write_tokenizer

PAD, CLS, SEP = 0, 2, 3


@given(a=st.integers(1, 300), b=st.integers(1, 300), room=st.integers(2, 200))
def test_shares_are_those_of_taking_one_token_at_a_time(a: int, b: int, room: int) -> None:
    kept_a, kept_b = a, b
    while kept_a + kept_b > room:
        if kept_a > kept_b:
            kept_a -= 1
        else:
            kept_b -= 1
    found = shares(np.asarray([a]), np.asarray([b]), np.asarray([room]))
    assert (int(found[0][0]), int(found[1][0])) == (kept_a, kept_b)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return write_tokenizer(tmp_path_factory.mktemp("vocabulary") / "tokenizer.json", num_words=60_000)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardedStore:
    """Every token of the store is another one, so that a pair says where it comes from."""
    documents, next_id = random_documents(3, 60), 100
    for document in documents:
        for sentence in document:
            sentence[:] = range(next_id, next_id + len(sentence))
            next_id += len(sentence)
    return write_shards(tmp_path_factory.mktemp("pairs"), documents, vocab_size=60_000)


def some_pairs(
    store: ShardedStore, vocabulary: Vocabulary, *, seq_length: int = 32, key: int = 1, num: int = 4000
) -> tuple[Pairs, Windows, np.ndarray]:
    windows = Windows(store, seq_length - 3)
    numbers = np.arange(num) % len(windows)
    keys = draws(key, np.arange(num))
    made = make_pairs(store, windows, numbers, keys_B=keys, seq_length=seq_length, vocabulary=vocabulary)
    return made, windows, numbers


def bounds_of(windows: Windows) -> np.ndarray:
    """First and past sentence of every window, [2, W]."""
    return np.stack(windows.find(np.arange(len(windows)))[1:])


def segments(pairs: Pairs, row: int) -> tuple[list[int], list[int]]:
    """A and B, read back from the layout, which is checked on the way."""
    used = pairs.ids_BT[row][pairs.is_used_BT[row]].tolist()
    assert used[0] == CLS and used[-1] == SEP and used.count(SEP) == 2
    assert (pairs.ids_BT[row][~pairs.is_used_BT[row]] == PAD).all()
    assert pairs.is_used_BT[row].tolist() == [i < len(used) for i in range(pairs.ids_BT.shape[1])]
    middle = used.index(SEP)
    assert pairs.token_types_BT[row].tolist() == [int(middle < i < len(used)) for i in range(pairs.ids_BT.shape[1])]
    assert pairs.is_text_BT[row].tolist() == [
        0 < i < len(used) - 1 and i != middle for i in range(pairs.ids_BT.shape[1])
    ]
    return used[1:middle], used[middle + 1 : -1]


def test_where_pairs_come_from(store: ShardedStore, vocabulary: Vocabulary) -> None:
    made, windows, numbers = some_pairs(store, vocabulary)
    document_of_token = np.repeat(
        np.arange(store.num_documents),
        np.diff(store.token_offsets(store.document_bounds(np.arange(store.num_documents + 1)))),
    )
    assert made.is_random_B.any() and not made.is_random_B.all()
    bounds = bounds_of(windows)
    for row, number in enumerate(numbers):
        a, b = segments(made, row)
        begin, end = store.token_offsets(bounds[:, number]) + 100
        assert a and b
        assert a == list(range(a[0], a[0] + len(a))) and b == list(range(b[0], b[0] + len(b)))
        assert begin <= a[0] and a[-1] < end
        own = document_of_token[a[0] - 100]
        others = set(document_of_token[np.asarray(b) - 100].tolist())
        if made.is_random_B[row]:
            assert len(others) == 1 and own not in others
        else:
            assert a[-1] < b[0] and b[-1] < end


def test_half_of_the_pairs_are_random(store: ShardedStore, vocabulary: Vocabulary) -> None:
    made, _, _ = some_pairs(store, vocabulary, num=20_000)
    assert abs(made.is_random_B.mean() - 0.5) < 0.0125  # 3.5 standard deviations


def test_a_random_segment_is_drawn_from_all_other_sentences(store: ShardedStore, vocabulary: Vocabulary) -> None:
    made, _, _ = some_pairs(store, vocabulary, num=20_000)
    rows = np.flatnonzero(made.is_random_B)
    first_of_b = [segments(made, row)[1][0] - 100 for row in rows]
    starts = store.token_offsets(np.arange(store.num_sentences + 1))
    hit = np.bincount(np.searchsorted(starts, first_of_b, side="right") - 1, minlength=store.num_sentences)
    assert (hit > 0).mean() > 0.99


def test_sequences_are_full_but_for_the_short_ones(store: ShardedStore, vocabulary: Vocabulary) -> None:
    made, windows, numbers = some_pairs(store, vocabulary, num=20_000)
    offsets = store.token_offsets(bounds_of(windows))
    is_long_window = (offsets[1] - offsets[0] >= 29)[numbers]
    num_tokens = made.is_used_BT.sum(axis=1)
    follows = is_long_window & ~made.is_random_B
    # Lengths of short ones are uniform from 2 to 29 tokens of text.
    assert abs((num_tokens[follows] < 32).mean() - 0.1 * 27 / 28) < 0.015
    assert num_tokens[follows].min() < 10 and num_tokens.min() >= 5


def test_each_place_of_a_long_sentence_is_seen(tmp_path: Path, vocabulary: Vocabulary) -> None:
    long = list(range(100, 400))
    store = write_shards(tmp_path, [[long, [7, 7]], [[8, 8], [9, 9]]], vocab_size=60_000)
    made, windows, numbers = some_pairs(store, vocabulary)
    seen = set(made.ids_BT[(windows.find(numbers)[0] == 0) & ~made.is_random_B].ravel().tolist())
    assert seen >= set(long)


def test_a_pair_is_a_function_of_its_window_and_key(store: ShardedStore, vocabulary: Vocabulary) -> None:
    windows = Windows(store, 29)
    numbers, keys = np.arange(40) % len(windows), draws(9, np.arange(40))
    whole = make_pairs(store, windows, numbers, keys_B=keys, seq_length=32, vocabulary=vocabulary)
    for row in range(0, 40, 3):
        one = make_pairs(
            store, windows, numbers[row : row + 1], keys_B=keys[row : row + 1], seq_length=32, vocabulary=vocabulary
        )
        assert np.array_equal(one.ids_BT[0], whole.ids_BT[row])
    other = make_pairs(store, windows, numbers, keys_B=draws(10, np.arange(40)), seq_length=32, vocabulary=vocabulary)
    assert (other.ids_BT != whole.ids_BT).any(axis=1).mean() > 0.9


def test_more_sentences_than_are_looked_at_first(tmp_path: Path, vocabulary: Vocabulary) -> None:
    one_token_sentences = [[[100 + i] for i in range(250)], [[1000 + i] for i in range(250)]]
    store = write_shards(tmp_path, one_token_sentences, vocab_size=60_000)
    made, windows, numbers = some_pairs(store, vocabulary, seq_length=128, num=500)
    is_full = (np.diff(bounds_of(windows), axis=0)[0][numbers] >= 125) & ~made.is_random_B
    assert is_full.sum() > 100
    assert (made.is_used_BT.sum(axis=1)[is_full] == 128).mean() > 0.85
    assert made.is_used_BT.sum(axis=1).max() == 128
