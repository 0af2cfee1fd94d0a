"""Stores of more tokens than a test may write: their tokens are holes in a sparse file, their index is real."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from dsparse.data.manifest import TOKENIZER, Manifest, SplitCounts, shard_name
from dsparse.data.store import DTYPE_OF_CODE, HEADER, MAGIC, VERSION
from dsparse.files import FileRecord
from tests.data.small import random_documents, write_tokenizer, write_tokens

_CODE = 8  # uint16
_AT_ONCE = 1 << 20


def write_huge_store(
    folder: Path, *, num_documents: int, sentences_per_document: int, tokens_per_sentence: int, num_shards: int = 1
) -> Path:
    """A store whose training split has shards of documents that are all alike, of tokens that are all 0.

    Args:
        folder: does not exist.
        num_documents: in each shard.
        sentences_per_document: in each document.
        tokens_per_sentence: in each sentence.
        num_shards: of the training split.
    """
    folder.mkdir(parents=True)
    vocabulary = write_tokenizer(folder / TOKENIZER)
    names = [shard_name("train", number) for number in range(num_shards)]
    for name in names:
        _write_shard(folder / name, num_documents, sentences_per_document, tokens_per_sentence)
    heldout = write_tokens(folder / shard_name("heldout", 0), random_documents(1, 9), vocabulary.size)
    num_sentences = num_shards * num_documents * sentences_per_document
    counts = {
        "train": SplitCounts(
            num_documents=num_shards * num_documents,
            num_sentences=num_sentences,
            num_tokens=num_sentences * tokens_per_sentence,
            num_bytes=4 * num_sentences * tokens_per_sentence,
        ),
        "heldout": SplitCounts(
            num_documents=9,
            num_sentences=heldout.num_sentences,
            num_tokens=heldout.num_tokens,
            num_bytes=4 * heldout.num_tokens,
        ),
    }
    Manifest(
        vocab_size=vocabulary.size,
        tokenizer_sha256=vocabulary.sha256,
        special_ids=vocabulary.special_ids,
        splits=counts,
        shards={"train": names, "heldout": [heldout.prefix.name]},
        # Hashing the holes would take longer than everything else; opening compares sizes.
        files={
            path.name: FileRecord(num_bytes=path.stat().st_size, sha256="0" * 64) for path in sorted(folder.iterdir())
        },
    ).write(folder)
    return folder


def _write_shard(prefix: Path, num_documents: int, sentences_per_document: int, tokens_per_sentence: int) -> None:
    num_sentences = num_documents * sentences_per_document
    num_bytes = tokens_per_sentence * DTYPE_OF_CODE[_CODE].itemsize
    with prefix.with_name(prefix.name + ".bin").open("wb") as stream:
        stream.truncate(num_sentences * num_bytes)
    with prefix.with_name(prefix.name + ".idx").open("wb") as stream:
        stream.write(HEADER.pack(MAGIC, VERSION, _CODE, num_sentences, num_documents + 1))
        for part in _chunks(num_sentences):
            stream.write(np.full(len(part), tokens_per_sentence, "<i4").tobytes())
        for part in _chunks(num_sentences):
            stream.write((part * num_bytes).astype("<i8").tobytes())
        for part in _chunks(num_documents + 1):
            stream.write((part * sentences_per_document).astype("<i8").tobytes())


def _chunks(num: int) -> Iterator[np.ndarray]:
    return (np.arange(first, min(first + _AT_ONCE, num)) for first in range(0, num, _AT_ONCE))


def anonymous_bytes() -> int:
    """Memory of this process that no file backs: pages of mapped files belong to the system's cache."""
    gc.collect()
    return sum(part.anonymous for part in psutil.Process().memory_maps())
