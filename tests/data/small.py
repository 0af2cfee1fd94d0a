"""Small stores and vocabularies written by hand, for tests that need to know every token."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dsparse.data.manifest import MANIFEST, TOKENIZER, Manifest, SplitCounts, shard_name, with_digest
from dsparse.data.shards import ShardedStore
from dsparse.data.store import TokenStore, smallest_dtype
from dsparse.data.vocabulary import SPECIAL_TOKENS, Vocabulary
from dsparse.data.writer import IndexedWriter
from dsparse.files import FileRecord

NUM_SPECIAL_IDS = 5


def write_tokenizer(path: Path, *, num_words: int = 60, num_pieces: int = 35) -> Vocabulary:
    """Specials 0 … 4, then whole words w0, w1, …, then pieces ##p0, ##p1, …"""
    words = [f"w{i}" for i in range(num_words)] + [f"##p{i}" for i in range(num_pieces)]
    vocab = {token: number for number, token in enumerate([*SPECIAL_TOKENS.values(), *words])}
    added = [{"id": vocab[token], "content": token, "special": True} for token in SPECIAL_TOKENS.values()]
    model = {"type": "WordPiece", "vocab": vocab, "continuing_subword_prefix": "##"}
    path.write_text(json.dumps({"model": model, "added_tokens": added}))
    return Vocabulary.read(path)


def write_tokens(prefix: Path, documents: list[list[list[int]]], vocab_size: int = 100) -> TokenStore:
    """A split from lists of token ids: documents of sentences."""
    with IndexedWriter(prefix, smallest_dtype(vocab_size)) as writer:
        for document in documents:
            writer.add_document([i for sentence in document for i in sentence], [len(s) for s in document])
    return TokenStore(prefix)


def write_shards(
    folder: Path, documents: list[list[list[int]]], *, sizes: list[int] | None = None, vocab_size: int = 100
) -> ShardedStore:
    """A split of shards with so many documents each; one shard without."""
    return ShardedStore([one.prefix for one in _write_shards(folder, "train", documents, sizes, vocab_size)])


def _write_shards(
    folder: Path, split: str, documents: list[list[list[int]]], sizes: list[int] | None, vocab_size: int
) -> list[TokenStore]:
    sizes = [len(documents)] if sizes is None else sizes
    assert sum(sizes) == len(documents)
    left = iter(documents)
    return [
        write_tokens(folder / shard_name(split, number), list(itertools.islice(left, size)), vocab_size)
        for number, size in enumerate(sizes)
    ]


def random_documents(
    seed: int, num_documents: int, *, vocabulary_size: int = 100, max_sentences: int = 12, max_tokens: int = 20
) -> list[list[list[int]]]:
    """Documents of random ordinary tokens."""
    random = np.random.default_rng(seed)
    return [
        [
            random.integers(NUM_SPECIAL_IDS, vocabulary_size, random.integers(1, max_tokens + 1)).tolist()
            for _ in range(random.integers(1, max_sentences + 1))
        ]
        for _ in range(num_documents)
    ]


def write_store(
    folder: Path, splits: dict[str, list[list[list[int]]]], *, shard_sizes: dict[str, list[int]] | None = None
) -> Path:
    """A whole store with a manifest, of the vocabulary of `write_tokenizer`.

    Args:
        folder: does not exist.
        splits: documents of sentences of ids.
        shard_sizes: documents in each shard of a split; one shard for a split without.
    """
    folder.mkdir(parents=True)
    vocabulary = write_tokenizer(folder / TOKENIZER)
    counts, shards = {}, {}
    for split, documents in splits.items():
        stores = _write_shards(folder, split, documents, (shard_sizes or {}).get(split), vocabulary.size)
        shards[split] = [store.prefix.name for store in stores]
        counts[split] = SplitCounts(
            num_documents=len(documents),
            num_sentences=sum(store.num_sentences for store in stores),
            num_tokens=sum(store.num_tokens for store in stores),
            num_bytes=3 * sum(store.num_tokens for store in stores),
        )
    Manifest(
        vocab_size=vocabulary.size,
        tokenizer_sha256=vocabulary.sha256,
        special_ids=vocabulary.special_ids,
        splits=counts,
        shards=shards,
        files={path.name: FileRecord.of(path) for path in sorted(folder.iterdir())},
    ).write(folder)
    return folder


def rewrite_manifest(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a manifest as if it had been written so, its digest included."""
    content = json.loads((store / MANIFEST).read_text())
    del content["manifest_sha256"]
    change(content)
    (store / MANIFEST).write_text(with_digest(content))
