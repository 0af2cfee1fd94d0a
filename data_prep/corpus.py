"""Documents of all sources, cleaned and deduplicated, as one text file: a sentence a line, a blank line after each
document.

The tokenizer is trained on this file and then reads it again, so the sources are read once. Workers do the reading,
cleaning and splitting; this process removes duplicates and writes, in the order of the sources, so the file does not
depend on the number of workers. In memory are a few parts per worker and a hash, some 60 bytes, for each document (for
the installed documentation, each paragraph).
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from data_prep.progress import progress
from data_prep.sources import Paragraphs, Part, Source
from dsparse.errors import UserError

_PARTS_PER_TASK, _BYTES_PER_TASK = 32, 1 << 20
_TASKS_PER_WORKER = 4  # in flight


@dataclass
class CorpusCounts:
    """What went into the file and what did not."""

    num_documents: int = 0
    num_sentences: int = 0
    num_words: int = 0
    """White space apart."""
    num_duplicates: int = 0
    """Documents, and paragraphs of the installed documentation, that were there already."""
    characters: Counter[str] = field(default_factory=Counter)
    """How often each occurs, for the alphabet of the vocabulary."""


def write_corpus(
    sources: list[Source], path: Path, *, num_workers: int, max_documents: int | None = None
) -> CorpusCounts:
    """Reads all sources into one file.

    Args:
        sources: read in this order.
        path: the file to write.
        num_workers: processes.
        max_documents: stop after so many; None reads everything.

    Raises:
        UserError: an input is malformed.
    """
    counts, seen = CorpusCounts(), _Seen()
    is_open = False  # whether the document written last may go on
    total = sum(source.num_bytes() for source in sources)
    with progress("reading documents", total) as advance, open(path, "w", encoding="utf-8", newline="\n") as out:
        for source in sources:
            for num_bytes, documents in _documents(source.parts(), num_workers=num_workers):
                advance(num_bytes)
                for document in documents:
                    if is_open and not document.goes_on:
                        out.write("\n")
                        is_open = False
                        if max_documents is not None and counts.num_documents >= max_documents:
                            return counts
                    text = _new_text(document, counts, seen, is_repetitive=source.is_repetitive)
                    counts.num_documents += bool(text) and not is_open
                    is_open |= bool(text)
                    out.write(text)
        if is_open:
            out.write("\n")
    return counts


def read_corpus(path: Path) -> Iterator[list[str]]:
    """The documents of a file that `write_corpus` wrote, as lists of sentences."""
    with open(path, encoding="utf-8", newline="\n") as lines:
        for is_blank, group in itertools.groupby(lines, key=lambda line: line == "\n"):
            if not is_blank:
                yield [line[:-1] for line in group]


class Hashed(NamedTuple):
    """A paragraph and the hash by which it is known again, computed where there are many processes."""

    sentences: list[str]
    digest: int


class Document(NamedTuple):
    """A document, or the next stretch of a long one."""

    paragraphs: list[Hashed]
    goes_on: bool


class _Seen:
    """Hashes of what was written."""

    def __init__(self) -> None:
        self._digests: set[int] = set()

    def is_new(self, digest: int) -> bool:
        """True the first time."""
        before = len(self._digests)
        self._digests.add(digest)
        return len(self._digests) > before


def _new_text(document: Document, counts: CorpusCounts, seen: _Seen, *, is_repetitive: bool) -> str:
    """A document's lines in the file, counted; empty if there is nothing new in it."""
    paragraphs = document.paragraphs
    if is_repetitive:
        kept = [paragraph for paragraph in paragraphs if seen.is_new(paragraph.digest)]
        counts.num_duplicates += len(paragraphs) - len(kept)
    else:
        digest = hash_of(" ".join(str(paragraph.digest) for paragraph in paragraphs))
        kept = paragraphs if paragraphs and seen.is_new(digest) else []
        counts.num_duplicates += bool(paragraphs) - bool(kept)
    if not kept:
        return ""
    sentences = [sentence for paragraph in kept for sentence in paragraph.sentences]
    text = "\n".join(sentences) + "\n"
    counts.num_sentences += len(sentences)
    counts.num_words += len(text.split())
    counts.characters.update(text)
    return text


def hash_of(text: str) -> int:
    """64-bit hash of a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _documents(parts: Iterable[Part], *, num_workers: int) -> Iterator[tuple[int, list[Document]]]:
    """Bytes read and documents found, task by task in the order of the parts."""
    tasks = _grouped(parts)
    if num_workers <= 1:
        yield from map(_work, tasks)
        return
    pool = ProcessPoolExecutor(num_workers, initializer=_begin_worker)
    running: deque[Future[tuple[int, list[Document]]]] = deque()
    try:
        for task in tasks:
            running.append(pool.submit(_work, task))
            if len(running) >= num_workers * _TASKS_PER_WORKER:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "Expected the worker processes to stay alive. Got one killed, most likely for want of memory; "
            "try --workers 1."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _grouped(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Parts in groups worth a message between processes."""
    group: list[Part] = []
    num_bytes = 0
    for part in parts:
        group.append(part)
        num_bytes += part.num_bytes
        if len(group) >= _PARTS_PER_TASK or num_bytes >= _BYTES_PER_TASK:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


def _work(parts: list[Part]) -> tuple[int, list[Document]]:
    documents = [
        Document(_hashed(paragraphs), goes_on=part.goes_on and number == 0)
        for part in parts
        for number, paragraphs in enumerate(part.documents())
    ]
    return sum(part.num_bytes for part in parts), documents


def _hashed(document: Paragraphs) -> list[Hashed]:
    return [Hashed(sentences, hash_of("\n".join(sentences))) for sentences in document if sentences]


def _begin_worker() -> None:
    # Ctrl-C is for the main process, which ends its workers; if it is killed, they end by themselves.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Syntax trees hold no cycles worth looking for.
    gc.freeze()
    gc.disable()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
