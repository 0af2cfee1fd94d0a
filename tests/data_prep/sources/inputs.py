"""What tests of sources share: real compressed files, and everything a source gives."""

from __future__ import annotations

import bz2
import gzip
import pickle
from collections.abc import Iterator
from pathlib import Path

from backports import zstd

from data_prep.sources.base import Document, Item, Problem, Skipped, Source

SUFFIXES = ["", ".bz2", ".gz", ".zst"]


def compressed(data: bytes, suffix: str) -> bytes:
    """The bytes of a file with such a name; one stream."""
    return {"": bytes, ".bz2": bz2.compress, ".gz": gzip.compress, ".zst": zstd.compress}[suffix](data)


def write(path: Path, data: str | bytes) -> Path:
    """Writes a file, in folders that may not be there, compressed as its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode() if isinstance(data, str) else data
    path.write_bytes(compressed(raw, path.suffix if path.suffix in SUFFIXES else ""))
    return path


def items_of(source: Source) -> list[Item]:
    """All items; chunks go through a pickle as they do on the way to a worker, and their bytes add up."""
    items: list[Item] = []
    num_bytes = 0
    for chunk in source.chunks():
        num_bytes += chunk.num_bytes
        items += pickle.loads(pickle.dumps(chunk)).items()
    assert num_bytes == source.num_bytes()
    return items


def texts_of(source: Source) -> list[str]:
    """The texts of a source that has no problems."""
    items = items_of(source)
    assert not problems_among(items)
    return [item.text for item in items if isinstance(item, Document)]


def problems_among(items: list[Item]) -> list[Problem]:
    return [item for item in items if isinstance(item, Problem)]


def documents_among(items: list[Item]) -> list[Document]:
    return [item for item in items if isinstance(item, Document)]


def skipped_among(items: list[Item]) -> list[Skipped]:
    return [item for item in items if isinstance(item, Skipped)]


def tears(length: int) -> Iterator[int]:
    """Lengths to which a file may be torn: all of a short one, some 200 of a long one."""
    return iter(range(1, length, max(length // 200, 1)))
