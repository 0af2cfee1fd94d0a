"""Writes the token store's files, and small files, so that they are seen whole or not at all.

The format is described in `dsparse.data.store`. Shapes: S sentences of one document.
"""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dsparse.data.store import CHUNK, DTYPE_OF_CODE, HEADER, MAGIC, VERSION, with_suffix
from dsparse.files import flush_to_disk


class IndexedWriter:
    """Writes one `.bin`/`.idx` pair as it comes; use as a context manager.

    Tokens go to disk at once; memory grows by 4 bytes a sentence and 8 a document. Both files are written under
    temporary names, flushed to the disk and renamed when the context ends without an error, the index last: what exists
    under its final name is whole. After an error nothing is left.

        with IndexedWriter("store/train", np.dtype("<u2")) as writer:
            writer.add_document([5, 6, 7, 5, 9], [3, 2])
    """

    def __init__(self, prefix: str | Path, dtype: np.dtype[Any]) -> None:
        """Nothing is written before the context is entered.

        Args:
            prefix: path without suffix; its folder exists.
            dtype: of the tokens, from `smallest_dtype`.
        """
        self._prefix = Path(prefix)
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._code = next(code for code, known in DTYPE_OF_CODE.items() if known == self._dtype)
        self._lengths = array("i")
        self._documents = array("q", [0])
        self._stream: BinaryIO | None = None
        self.num_tokens = 0

    @property
    def num_sentences(self) -> int:
        """Sentences added so far."""
        return len(self._lengths)

    @property
    def num_documents(self) -> int:
        """Documents added so far."""
        return len(self._documents) - 1

    def add_document(self, tokens: NDArray[np.integer] | list[int], lengths_S: NDArray[np.integer] | list[int]) -> None:
        """Adds the sentences of one document.

        Args:
            tokens: ids of all its sentences in a row.
            lengths_S: tokens in each sentence, each at least 1.
        """
        assert self._stream is not None, "IndexedWriter is used as a context manager"
        values = np.asarray(tokens)
        lengths = np.asarray(lengths_S, np.int32)
        assert len(lengths) and lengths.min() > 0 and lengths.sum(dtype=np.int64) == len(values)
        limits = np.iinfo(self._dtype)
        assert limits.min <= values.min() and values.max() <= limits.max, "tokens do not fit the dtype"
        self._stream.write(values.astype(self._dtype).tobytes())
        self._lengths.frombytes(lengths.tobytes())
        self._documents.append(len(self._lengths))
        self.num_tokens += len(values)

    def __enter__(self) -> IndexedWriter:
        self._stream = open(self._temporary(".bin"), "wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._stream is not None
        try:
            if kind is None:
                _flush_to_disk(self._stream)
                with open(self._temporary(".idx"), "wb") as stream:
                    self._write_index(stream)
                    _flush_to_disk(stream)
            self._stream.close()
            if kind is None:
                for suffix in (".bin", ".idx"):
                    os.replace(self._temporary(suffix), with_suffix(self._prefix, suffix))
                flush_to_disk(self._prefix.parent)
        finally:
            self._stream.close()
            for suffix in (".bin", ".idx"):
                self._temporary(suffix).unlink(missing_ok=True)

    def _write_index(self, stream: BinaryIO) -> None:
        stream.write(HEADER.pack(MAGIC, VERSION, self._code, self.num_sentences, len(self._documents)))
        lengths = np.frombuffer(self._lengths, np.int32) if self._lengths else np.empty(0, np.int32)
        stream.write(lengths.astype("<i4").tobytes())
        start = 0
        for first in range(0, len(lengths), CHUNK):
            ends = start + np.cumsum(lengths[first : first + CHUNK], dtype=np.int64) * self._dtype.itemsize
            stream.write(np.concatenate([[start], ends[:-1]]).astype("<i8").tobytes())
            start = int(ends[-1])
        stream.write(np.frombuffer(self._documents, np.int64).astype("<i8").tobytes())

    def _temporary(self, suffix: str) -> Path:
        return with_suffix(self._prefix, f"{suffix}.partial")


def _flush_to_disk(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
