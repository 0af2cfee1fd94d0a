"""Corpora of 1e9 and 6e9 tokens: opened at once, in little memory, and read right beyond 2**32."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from dsparse.data.draw import draws
from dsparse.data.loader import PretrainingData
from dsparse.data.pairs import make_pairs
from dsparse.data.shards import ShardedStore
from dsparse.data.windows import Windows
from tests.data.huge import anonymous_bytes, write_huge_store

MIB = 2**20


def test_a_billion_tokens_open_at_once_and_take_little_memory(tmp_path: Path) -> None:
    # Long sentences, so that the index is 40 MB and not 600; as many documents as real text has.
    store = write_huge_store(
        tmp_path / "store", num_documents=1_250_000, sentences_per_document=2, tokens_per_sentence=400
    )
    small = PretrainingData(store, split="heldout", seq_length=128)
    small.batch(np.arange(32))  # what the first batch of any store allocates
    before = anonymous_bytes()
    t0_s = time.perf_counter()
    data = PretrainingData(store, seq_length=128, seed=3)
    opening_s = time.perf_counter() - t0_s
    assert data.manifest.splits["train"].num_tokens == 10**9
    # 800 tokens in stretches of at most 125 + 200.
    assert data.num_samples_per_epoch == 3 * 1_250_000
    assert opening_s < 5  # well below 1, where nothing else runs
    assert anonymous_bytes() - before < 24 * MIB
    for number in range(1000):
        data.batch(np.arange(32) + 32 * number)
    # A list of documents would be 10 MB, one of windows 60.
    assert anonymous_bytes() - before < 8 * MIB


@pytest.fixture
def beyond(tmp_path: Path) -> ShardedStore:
    """6e9 tokens in two shards, the last document of each of tokens that are 7."""
    folder = write_huge_store(
        tmp_path / "store", num_documents=75_000, sentences_per_document=4, tokens_per_sentence=10_000, num_shards=2
    )
    for name in ("train-00000", "train-00001"):
        with (folder / f"{name}.bin").open("r+b") as stream:
            stream.seek(-2 * 40_000, 2)
            stream.write(np.full(40_000, 7, "<u2").tobytes())
    return ShardedStore([folder / "train-00000", folder / "train-00001"])


def test_tokens_beyond_32_bits(beyond: ShardedStore, tmp_path: Path) -> None:
    assert beyond.num_tokens == 6 * 10**9 > 2**32
    assert beyond.token_offsets(np.asarray([299_999, 300_000, 600_000])).tolist() == [
        2_999_990_000,
        3_000_000_000,
        6_000_000_000,
    ]
    positions = np.asarray([6 * 10**9 - 40_001, 6 * 10**9 - 40_000, 6 * 10**9 - 1, 3 * 10**9 - 1, 3 * 10**9])
    assert beyond.tokens_at(positions).tolist() == [0, 7, 7, 7, 0]

    windows = Windows(beyond, 125)
    numbers = np.arange(len(windows) - 64, len(windows))
    documents, first, past = windows.find(numbers)
    # 40 000 tokens in stretches of at most 125 + 5000, so 8 windows, each a pair of sentences or two.
    assert len(windows) == 8 * 150_000
    assert documents.tolist() == [150_000 - 8 + number // 8 for number in range(64)]
    assert (first >= 4 * documents).all() and (past <= 4 * documents + 4).all()

    vocabulary = PretrainingData(tmp_path / "store", split="heldout").vocabulary
    made = make_pairs(beyond, windows, numbers, keys_B=draws(1, numbers), seq_length=128, vocabulary=vocabulary)
    is_first_text = np.zeros_like(made.is_text_BT)
    is_first_text[:, 1] = True
    is_sevens = made.ids_BT[is_first_text] == 7
    assert is_sevens.tolist() == [number >= 56 for number in range(64)]


def test_batches_come_from_all_of_it(beyond: ShardedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[np.ndarray] = []
    tokens_at = ShardedStore.tokens_at

    def noted(store: ShardedStore, positions: np.ndarray) -> np.ndarray:
        read.append(positions)
        return tokens_at(store, positions)

    monkeypatch.setattr(ShardedStore, "tokens_at", noted)
    data = PretrainingData(tmp_path / "store", seq_length=64)
    batch = data.batch(np.arange(500))
    assert batch["attention_mask"].sum(axis=1).max() == 64
    positions = np.concatenate(read)
    assert positions.min() >= 0 and positions.max() < 6 * 10**9
    # A thousand segments, so a standard deviation of 0.015.
    assert abs((positions >= 2**32).mean() - (1 - 2**32 / 6e9)) < 0.06
