"""Small stores and vocabularies written by hand, for tests that need to know every token."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from dsparse.data.manifest import TOKENIZER, Manifest, SplitCounts
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


def write_store(folder: Path, splits: dict[str, list[list[list[int]]]]) -> Path:
    """A whole store with a manifest, of the vocabulary of `write_tokenizer`."""
    folder.mkdir(parents=True)
    vocabulary = write_tokenizer(folder / TOKENIZER)
    counts = {}
    for split, documents in splits.items():
        store = write_tokens(folder / split, documents, vocabulary.size)
        counts[split] = SplitCounts(
            num_documents=store.num_documents, num_sentences=store.num_sentences, num_tokens=store.num_tokens
        )
    Manifest(
        vocab_size=vocabulary.size,
        tokenizer_sha256=vocabulary.sha256,
        special_ids=vocabulary.special_ids,
        splits=counts,
        files={path.name: FileRecord.of(path) for path in sorted(folder.iterdir())},
    ).write(folder)
    return folder
