"""The token store: Megatron-LM's indexed dataset, one sequence a sentence, with document bounds.

`PREFIX.bin` holds nothing but tokens, one sentence after another. `PREFIX.idx` holds, little-endian: the magic
`MMIDIDX\\0\\0`, the version (uint64, 1), a code for the tokens' type (uint8), the number of sentences N (uint64), the
length of the document index D + 1 (uint64), then N int32 lengths in tokens, N int64 offsets into `.bin` in bytes, and
D + 1 int64 document bounds, counted in sentences, the first 0 and the last N.

So corpora made for Megatron-LM can be trained on here, and ours there
(https://github.com/NVIDIA/Megatron-LM/blob/main/megatron/core/datasets/indexed_dataset.py).

Shape legend: N sentences, D documents.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dsparse.errors import UserError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
# Megatron-LM's codes.
DTYPES: dict[int, type] = {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    6: np.float64,
    7: np.float32,
    8: np.uint16,
}
_HEADER = struct.Struct("<9sQBQQ")


def smallest_dtype(vocab_size: int) -> np.dtype[Any]:
    """uint16 where every token id fits, else int32."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.int32)


def bin_path(prefix: Path) -> Path:
    """The file with the tokens."""
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    """The file with lengths, offsets and document bounds."""
    return prefix.with_name(prefix.name + ".idx")


class TokenStore:
    """Reads a store through a memory map; opening costs the index, not the tokens.

    Raises:
        UserError: a file is missing, is not of this format, or was cut short.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = Path(prefix)
        index = self._read_index()
        code, num_sentences, num_bounds = self._check_header(index)
        self.dtype: np.dtype[Any] = np.dtype(DTYPES[code])
        """Type of a token id."""
        ends = np.cumsum([_HEADER.size, 4 * num_sentences, 8 * num_sentences, 8 * num_bounds]).tolist()
        self.lengths_N: NDArray[np.int32] = index[ends[0] : ends[1]].view("<i4")
        """Length of each sentence, tokens."""
        self.offsets_N: NDArray[np.int64] = index[ends[1] : ends[2]].view("<i8")
        """Where each sentence begins in `.bin`, bytes."""
        self.document_bounds: NDArray[np.int64] = index[ends[2] : ends[3]].view("<i8")
        """[D + 1], first sentence of each document, and N."""
        self._check_index()
        self.tokens: NDArray[Any] = self._map_tokens()
        """All tokens, read only."""

    @property
    def num_sentences(self) -> int:
        """N."""
        return len(self.lengths_N)

    @property
    def num_documents(self) -> int:
        """D."""
        return len(self.document_bounds) - 1

    @property
    def num_tokens(self) -> int:
        """Tokens in all sentences."""
        return int(self.lengths_N.sum(dtype=np.int64))

    def sentence(self, index: int) -> NDArray[Any]:
        """Token ids of one sentence, a read-only view."""
        return self.sentences(index, index + 1)

    def sentences(self, first: int, past: int) -> NDArray[Any]:
        """Token ids of sentences `first` … `past` − 1 in one read-only view; they lie one behind another."""
        start = int(self.offsets_N[first]) // self.dtype.itemsize
        return self.tokens[start : start + int(self.lengths_N[first:past].sum(dtype=np.int64))]

    def _read_index(self) -> NDArray[np.uint8]:
        for path in (idx_path(self.prefix), bin_path(self.prefix)):
            if not path.is_file():
                raise UserError(
                    f"Expected a token store at {self.prefix}.idx and .bin. {path} is missing; make the store with: "
                    f"python data_prep/prepare.py --source installed-docs --out {self.prefix.parent}"
                )
        return np.fromfile(idx_path(self.prefix), dtype=np.uint8)

    def _check_header(self, index: NDArray[np.uint8]) -> tuple[int, int, int]:
        path = idx_path(self.prefix)
        if len(index) < _HEADER.size:
            raise self._damaged(path, f"{len(index)} bytes are too few for a header of {_HEADER.size}")
        magic, version, code, num_sentences, num_bounds = _HEADER.unpack(index[: _HEADER.size].tobytes())
        if magic != MAGIC or version != VERSION or code not in DTYPES:
            raise self._damaged(path, "it does not begin like Megatron-LM's indexed dataset, version 1")
        expected = _HEADER.size + 12 * num_sentences + 8 * num_bounds
        if len(index) != expected:
            raise self._damaged(path, f"{expected} bytes expected by its header, {len(index)} there")
        return code, num_sentences, num_bounds

    def _check_index(self) -> None:
        path = idx_path(self.prefix)
        if self.num_documents < 0 or self.document_bounds[0] != 0 or self.document_bounds[-1] != self.num_sentences:
            raise self._damaged(path, "document bounds do not run from 0 to the number of sentences")
        if np.any(np.diff(self.document_bounds) < 0) or np.any(self.lengths_N < 0):
            raise self._damaged(path, "a length is negative or document bounds run backwards")
        ends = np.cumsum(self.lengths_N, dtype=np.int64) * self.dtype.itemsize
        if np.any(self.offsets_N[1:] != ends[:-1]) or (self.num_sentences and self.offsets_N[0] != 0):
            raise self._damaged(path, "sentences do not lie one behind another")

    def _map_tokens(self) -> NDArray[Any]:
        path = bin_path(self.prefix)
        expected, size = self.num_tokens * self.dtype.itemsize, path.stat().st_size
        if size != expected:
            raise self._damaged(path, f"{expected} bytes expected by the index, {size} there")
        return np.memmap(path, dtype=self.dtype, mode="r") if size else np.empty(0, self.dtype)

    @staticmethod
    def _damaged(path: Path, what: str) -> UserError:
        return UserError(f"Expected a whole token store. {path} is damaged: {what}. Make the store again.")


class IndexedWriter:
    """Writes a store aside and gives both files their names at the end: a store is there whole or not at all.

    Use as a context manager; leaving it by an exception removes what was written.
    """

    def __init__(self, prefix: str | Path, dtype: np.dtype[Any] | type) -> None:
        self.prefix = Path(prefix)
        self.dtype = np.dtype(dtype)
        self._code = next(code for code, known in DTYPES.items() if self.dtype == known)
        self._aside = bin_path(self.prefix).with_suffix(".bin.tmp")
        self._tokens: BinaryIO = self._aside.open("wb")
        self._lengths: list[int] = []
        self._bounds = [0]

    @property
    def num_sentences(self) -> int:
        """Sentences written so far."""
        return len(self._lengths)

    @property
    def num_documents(self) -> int:
        """Documents written so far."""
        return len(self._bounds) - 1

    def add_document(self, sentences: Sequence[Sequence[int] | NDArray[Any]]) -> None:
        """Appends a document: token ids of its sentences, each of at least one token."""
        limit = np.iinfo(self.dtype).max
        for sentence in sentences:
            ids = np.asarray(sentence, dtype=np.int64)
            if ids.size == 0 or ids.min() < 0 or ids.max() > limit:
                raise ValueError(f"Expected token ids from 0 to {limit}, at least one. Got {sentence!r}.")
            self._tokens.write(ids.astype(self.dtype).tobytes())
            self._lengths.append(ids.size)
        self._bounds.append(len(self._lengths))

    def close(self) -> None:
        """Finishes both files and gives them their names."""
        lengths = np.asarray(self._lengths, dtype="<i4")
        ends = np.cumsum(lengths, dtype=np.int64) * self.dtype.itemsize
        offsets = np.concatenate([np.zeros(min(1, len(lengths)), np.int64), ends[:-1]])
        header = _HEADER.pack(MAGIC, VERSION, self._code, len(lengths), len(self._bounds))
        index_aside = idx_path(self.prefix).with_suffix(".idx.tmp")
        with index_aside.open("wb") as file:
            file.write(header + lengths.tobytes())
            file.write(offsets.astype("<i8").tobytes() + np.asarray(self._bounds, dtype="<i8").tobytes())
            _flush(file)
        _flush(self._tokens)
        self._tokens.close()
        # The index last: a reader finds no store until both are there.
        self._aside.replace(bin_path(self.prefix))
        index_aside.replace(idx_path(self.prefix))

    def discard(self) -> None:
        """Removes what was written."""
        self._tokens.close()
        self._aside.unlink(missing_ok=True)
        idx_path(self.prefix).with_suffix(".idx.tmp").unlink(missing_ok=True)

    def __enter__(self) -> IndexedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
