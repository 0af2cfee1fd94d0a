"""From a corpus and a tokenizer to the files of a store: encode, split into training and held-out text, write."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from data_prep.corpus import read_corpus
from data_prep.progress import progress
from dsparse.data.manifest import SHARD_SUFFIXES, SPLITS, TOKENIZER, SplitCounts, shard_name
from dsparse.data.store import smallest_dtype
from dsparse.data.writer import IndexedWriter
from dsparse.files import FileRecord

_SENTENCES_PER_BATCH = 1 << 14


def write_splits(
    corpus: Path, store: Path, tokenizer: Tokenizer, *, split_of: Callable[[list[str]], str], num_documents: int
) -> dict[str, SplitCounts]:
    """Encodes the corpus and writes both splits.

    Args:
        corpus: from `data_prep.corpus.write_corpus`.
        store: folder for the files.
        tokenizer: from `data_prep.tokenizer.read_tokenizer`.
        split_of: the split of a document, "train" or "heldout".
        num_documents: in the corpus, for the progress bar.
    """
    dtype = smallest_dtype(tokenizer.get_vocab_size(with_added_tokens=True))
    with ExitStack() as stack:
        advance = stack.enter_context(progress("writing tokens", num_documents))
        writers = {split: stack.enter_context(IndexedWriter(store / shard_name(split, 0), dtype)) for split in SPLITS}
        num_bytes = dict.fromkeys(SPLITS, 0)
        for documents in _batches(read_corpus(corpus)):
            sentences = list(itertools.chain.from_iterable(documents))
            encoded = iter(tokenizer.encode_batch_fast(sentences, add_special_tokens=False))
            for document in documents:
                ids = [one.ids for one in itertools.islice(encoded, len(document)) if one.ids]
                if ids:
                    split = split_of(document)
                    writers[split].add_document(np.concatenate(ids), [len(one) for one in ids])
                    num_bytes[split] += sum(len(sentence.encode()) for sentence in document)
            advance(len(documents))
    return {
        split: SplitCounts(
            num_documents=writer.num_documents,
            num_sentences=writer.num_sentences,
            num_tokens=writer.num_tokens,
            num_bytes=num_bytes[split],
        )
        for split, writer in writers.items()
    }


def file_records(store: Path) -> dict[str, FileRecord]:
    """Size and hash of every file of a store but its manifest."""
    names = [TOKENIZER, *(f"{shard_name(split, 0)}{suffix}" for split in SPLITS for suffix in SHARD_SUFFIXES)]
    return {name: FileRecord.of(store / name) for name in names}


def _batches(documents: Iterator[list[str]]) -> Iterator[list[list[str]]]:
    batch: list[list[str]] = []
    num_sentences = 0
    for document in documents:
        batch.append(document)
        num_sentences += len(document)
        if num_sentences >= _SENTENCES_PER_BATCH:
            yield batch
            batch, num_sentences = [], 0
    if batch:
        yield batch
