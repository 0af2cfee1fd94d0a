"""A small store of real sentences with a trained vocabulary, for tests that read what people are shown."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.shards import ShardWriter
from data_prep.text.tokenizer import train_tokenizer
from dsparse.data.manifest import SPLITS, TOKENIZER, Manifest, SourceCounts
from dsparse.data.store import smallest_dtype
from dsparse.data.vocabulary import Vocabulary
from dsparse.files import FileRecord

_SUBJECTS = ("the old river", "a quiet stone", "the captain's daughter", "my neighbour", "the clock (a large one)")
_VERBS = ("wandered", "didn't remember", "was carrying", "understood", "forgot")
_PLACES = ("beyond the mountains", "in the harbour, at night", "behind seven windows", "for $5 or more")
SENTENCES = [f"{who} {what} {where}." for who, what, where in itertools.product(_SUBJECTS, _VERBS, _PLACES)]
"""As the tokenizer leaves them: in lower case."""
DROPPED = {"duplicate": 30, "too short": 4, "no text": 0}


def documents(seed: int, num_documents: int, sentences: list[str]) -> list[list[str]]:
    """Documents of 2 to 12 sentences."""
    random = np.random.default_rng(seed)
    return [
        [sentences[place] for place in random.integers(0, len(sentences), random.integers(2, 13))]
        for _ in range(num_documents)
    ]


def make_store(
    folder: Path, *, sentences: list[str] | None = None, num_sources: int = 1, dropped: dict[str, int] | None = None
) -> Path:
    """A store of 30 documents for training, in several shards, and 6 held out.

    Args:
        folder: does not exist.
        sentences: to make documents of; SENTENCES without.
        num_sources: in its manifest, with long labels.
        dropped: of each source; DROPPED without.
    """
    sentences = sentences or SENTENCES
    folder.mkdir(parents=True)
    # Of some sentences alone, so that words of the others fall into pieces.
    tokenizer = train_tokenizer(
        [sentences[: len(sentences) // 2]],
        characters=Counter("".join(sentences)),
        vocab_size=256,
        num_sentences=len(sentences),
    )
    tokenizer.save(str(folder / TOKENIZER))
    vocabulary = Vocabulary.read(folder / TOKENIZER)
    writers = {}
    for split, num_documents in zip(SPLITS, (30, 6), strict=True):
        with ShardWriter(folder, split, smallest_dtype(vocabulary.size), shard_tokens=1500) as writer:
            for document in documents(num_documents, num_documents, sentences):
                ids = [one.ids for one in tokenizer.encode_batch(document, add_special_tokens=False)]
                lengths = np.asarray([len(one) for one in ids], np.int32)
                writer.add(np.concatenate(ids), lengths, sum(len(one.encode()) for one in document))
        writers[split] = writer
    counts = {split: writer.counts for split, writer in writers.items()}
    sums = {
        name: sum(getattr(one, name) for one in counts.values()) // num_sources
        for name in ("num_documents", "num_sentences", "num_tokens", "num_bytes")
    }
    labels = [f"jsonl:/a/rather/long/path/to/the/files/of/corpus/number-{i}.jsonl.zst" for i in range(num_sources)]
    more: dict[str, Any] = {"dropped": DROPPED if dropped is None else dropped}
    Manifest(
        vocab_size=vocabulary.size,
        tokenizer_sha256=vocabulary.sha256,
        special_ids=vocabulary.special_ids,
        splits=counts,
        shards={split: writer.names for split, writer in writers.items()},
        files={path.name: FileRecord.of(path) for path in sorted(folder.iterdir())},
        sources=[SourceCounts(label=label, weight=2.0, **sums, **more) for label in labels],
        recipe={"near_duplicates": 0.8, "heldout_fraction": 0.03, "seed": 42, "tokenizer_sha256": None},
        versions={"python": "3.11", "code of clean": "0123456789abcdef"},
    ).write(folder)
    return folder
