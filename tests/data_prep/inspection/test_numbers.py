"""The counted numbers are those of a count by hand, whatever the chunks and shards."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path
from statistics import median_low

import numpy as np
import pytest

from data_prep.inspection import numbers
from data_prep.inspection.numbers import StoreNumbers, count_store
from dsparse.data.manifest import Manifest
from dsparse.data.vocabulary import Vocabulary
from dsparse.errors import UserError
from tests.data.small import random_documents, write_store, write_tokens

SPLITS = {"train": random_documents(1, 40, vocabulary_size=90), "heldout": random_documents(2, 7, vocabulary_size=90)}
# [UNK] occurs, as does a word more often than all others.
SPLITS["train"].append([[1, 1, 9], [9] * 200, [9]])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "store", SPLITS, shard_sizes={"train": [2, 0, 38, 1]})


def counted(store: Path, told: list[int] | None = None) -> StoreNumbers:
    manifest = Manifest.read(store)
    return count_store(manifest, store, manifest.check(store), (told if told is not None else []).append)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 17])
@pytest.mark.parametrize("longest", [15, 1 << 20])
def test_brute_force(store: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, longest: int) -> None:
    monkeypatch.setattr(numbers, "_CHUNK", chunk)
    monkeypatch.setattr(numbers, "LONGEST", longest)
    told: list[int] = []
    found = counted(store, told)
    every = SPLITS["train"] + SPLITS["heldout"]
    tokens = Counter(token for document in every for sentence in document for token in sentence)
    sentences = [len(sentence) for document in every for sentence in document]
    lengths = [sum(map(len, document)) for document in every]
    assert found.token_counts_V.tolist() == [tokens[number] for number in range(100)]
    for one, values in ((found.sentences, sentences), (found.documents, lengths)):
        clipped = Counter(min(value, longest) for value in values)
        assert {n: count for n, count in enumerate(one.counts_L.tolist()) if count} == clipped
        assert one.count == len(values) and one.longest == max(values)
        assert one.median == median_low(min(value, longest) for value in values)
    assert found.num_tokens == sum(told) == sum(lengths)
    assert found.tokens_per_document == sum(lengths) / len(lengths)
    assert found.tokens_per_sentence == sum(lengths) / len(sentences)
    assert found.unknown_share == 2 / sum(lengths)
    assert found.used_share == len({*tokens} - {1}) / 95
    assert found.bytes_per_token == 3.0
    ordinary = sorted((n for n in tokens if n >= 5), key=lambda n: (-tokens[n], n))
    assert found.most_frequent(10) == ordinary[:10] and ordinary[0] == 9
    assert found.most_frequent(1000) == ordinary


@pytest.mark.parametrize(("vocab_size", "token"), [(100, 100), (70_000, 100), (70_000, -1)])
def test_what_is_no_token_is_told(tmp_path: Path, vocab_size: int, token: int) -> None:
    store = write_store(tmp_path / "store", SPLITS)
    manifest = Manifest.read(store)
    vocabulary = Vocabulary.read(store / "tokenizer.json")
    write_tokens(store / "train-00000", [[[5, token], [6]]], vocab_size)
    with pytest.raises(UserError, match=rf"the token {token} in .*train-00000\.bin; .*verify\.py"):
        count_store(manifest, store, vocabulary, lambda _: None)


def test_a_length_below_zero_is_told(store: Path) -> None:
    path = store / "heldout-00000.idx"
    content = bytearray(path.read_bytes())
    content[34:38] = (-5).to_bytes(4, "little", signed=True)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a length of -5 in .*heldout-00000\.idx"):
        counted(store)


def test_memory_does_not_grow_with_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lengths and tokens of 300,000 sentences are told apart in chunks, not all at once as int64."""
    monkeypatch.setattr(numbers, "_CHUNK", 1 << 10)
    monkeypatch.setattr(numbers, "LONGEST", 1 << 16)
    store = write_store(tmp_path / "store", SPLITS)
    random = np.random.default_rng(3)
    big = [[[int(n)] for n in random.integers(5, 90, 60_000)] for _ in range(5)]
    write_tokens(store / "train-00000", big)
    manifest, vocabulary = Manifest.read(store), Vocabulary.read(store / "tokenizer.json")
    tracemalloc.start()
    try:
        count_store(manifest, store, vocabulary, lambda _: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Two arrays of counts, one more by length in passing; the index itself is mapped.
    assert peak < 3 * 8 * (numbers.LONGEST + 1) + 20 * 8 * numbers._CHUNK < 8 * 5 * 60_000
