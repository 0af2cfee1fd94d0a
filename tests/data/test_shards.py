"""Several shards answer as one: every lookup, whatever the shards' sizes."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsparse.data.search import last_not_above
from dsparse.data.shards import ShardedStore
from dsparse.data.store import TokenStore
from dsparse.errors import UserError
from tests.data.small import random_documents, write_shards, write_tokens


@given(seed=st.integers(0, 1000), sizes=st.lists(st.integers(0, 90), min_size=1, max_size=7))
def test_lookups(tmp_path_factory: pytest.TempPathFactory, seed: int, sizes: list[int]) -> None:
    folder = tmp_path_factory.mktemp("shards")
    documents = random_documents(seed, sum(sizes), max_sentences=4, max_tokens=5)
    (folder / "whole").mkdir()
    whole = write_tokens(folder / "whole" / "train", documents)
    store = write_shards(folder, documents, sizes=sizes)
    assert (store.num_documents, store.num_sentences, store.num_tokens) == (
        len(documents),
        sum(len(document) for document in documents),
        sum(len(sentence) for document in documents for sentence in document),
    )
    if not documents:
        return
    random = np.random.default_rng(seed)
    for name, past in (
        ("token_offsets", store.num_sentences + 1),
        ("document_bounds", store.num_documents + 1),
        ("documents_of", store.num_sentences),
        ("tokens_at", store.num_tokens),
    ):
        numbers = random.permutation(past)
        numbers = numbers[: past // 2 * 2].reshape(2, -1)
        found, expected = getattr(store, name)(numbers), getattr(whole, name)(numbers)
        assert found.dtype == np.int64 and np.array_equal(found, expected), name
    bounds = whole.documents.tolist()
    of_sentence = [d for d in range(len(documents)) for _ in range(bounds[d], bounds[d + 1])]
    assert whole.documents_of(np.arange(whole.num_sentences)).tolist() == of_sentence
    assert whole.tokens_at(np.arange(whole.num_tokens)).tolist() == whole.tokens.tolist()


@pytest.mark.parametrize("sizes", [[4], [1, 3]])
def test_a_worker_maps_the_files_itself(tmp_path: Path, sizes: list[int]) -> None:
    store = write_shards(tmp_path, [[[1] * 10_000]] * 4, sizes=sizes)
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert [shard.prefix for shard in again.shards] == [shard.prefix for shard in store.shards]
    assert again.num_tokens == 40_000


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    store = write_shards(tmp_path, random_documents(1, 4), sizes=[2, 2])
    (tmp_path / "train-00001.idx").unlink()
    with pytest.raises(UserError, match=r"train-00001\.idx.*prepare\.py --overwrite"):
        ShardedStore([shard.prefix for shard in store.shards])


def test_searching_copies_nothing(tmp_path: Path) -> None:
    """The arrays of an index are not aligned, and numpy's own search would copy them."""
    store = TokenStore(write_tokens(tmp_path / "train", random_documents(3, 500)).prefix)
    assert not store.documents.flags.aligned and store.documents.base is not None
    sentences = np.arange(store.num_sentences)
    assert np.array_equal(store.documents_of(sentences), np.searchsorted(store.documents, sentences, side="right") - 1)


@given(
    values=st.lists(st.integers(0, 20), min_size=1, max_size=30).map(sorted),
    wanted=st.lists(st.integers(-1, 21), min_size=1, max_size=8),
    bounds=st.tuples(st.integers(0, 29), st.integers(1, 30)),
)
def test_last_not_above(values: list[int], wanted: list[int], bounds: tuple[int, int]) -> None:
    low = min(bounds[0], len(values) - 1)
    past = min(low + bounds[1], len(values))
    found = last_not_above(
        np.asarray(values).__getitem__, np.asarray(wanted), np.full(len(wanted), low), np.full(len(wanted), past)
    )
    by_hand = [max([i for i in range(low, past) if values[i] <= one], default=low) for one in wanted]
    assert found.tolist() == by_hand
