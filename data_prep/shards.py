"""Writes a split as shards of about a set size, each cut between two documents."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsparse.data.manifest import SplitCounts, shard_name
from dsparse.data.writer import IndexedWriter


class ShardWriter:
    """The shards of one split; use as a context manager. There is at least one, if an empty one."""

    def __init__(self, store: Path, split: str, dtype: np.dtype[Any], *, shard_tokens: int) -> None:
        """Nothing is written before the context is entered.

        Args:
            store: folder.
            split: "train" or "heldout".
            dtype: of the tokens.
            shard_tokens: a shard that holds so many is closed.
        """
        self._store, self._split, self._dtype, self._shard_tokens = store, split, dtype, shard_tokens
        self._writer: IndexedWriter | None = None
        self.names: list[str] = []
        """Of the shards so far, without suffix."""
        self.longest = 0
        """Most sentences in a document."""
        self._counts = dict.fromkeys(("num_documents", "num_sentences", "num_tokens", "num_bytes"), 0)

    @property
    def counts(self) -> SplitCounts:
        """What was written so far."""
        return SplitCounts(**self._counts)

    def add(self, ids: NDArray[np.integer], lengths_S: NDArray[np.int32], num_bytes: int) -> None:
        """Adds a document.

        Args:
            ids: of all its sentences in a row.
            lengths_S: tokens of each sentence.
            num_bytes: of its text.
        """
        assert self._writer is not None, "ShardWriter is used as a context manager"
        if self._writer.num_tokens >= self._shard_tokens:
            self._close()
            self._open()
        self._writer.add_document(ids, lengths_S)
        self.longest = max(self.longest, len(lengths_S))
        for name, amount in zip(self._counts, (1, len(lengths_S), len(ids), num_bytes), strict=True):
            self._counts[name] += amount

    def __enter__(self) -> ShardWriter:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._writer is not None
        self._writer.__exit__(kind, error, trace)

    def _open(self) -> None:
        self.names.append(shard_name(self._split, len(self.names)))
        self._writer = IndexedWriter(self._store / self.names[-1], self._dtype)
        self._writer.__enter__()

    def _close(self) -> None:
        assert self._writer is not None
        self._writer.__exit__(None, None, None)
