"""Tokens on disk in Megatron-LM's indexed dataset format: `prefix.bin` and `prefix.idx`.

The .bin file is nothing but token ids, one sentence after the other. The .idx file says where sentences and documents
begin, all little-endian:

    bytes                   what
    9                       b"MMIDIDX\\x00\\x00"
    8   uint64              version, 1
    1   uint8               code of the tokens' dtype: 8 is uint16, 4 is int32
    8   uint64              N, number of sequences (here: sentences)
    8   uint64              D + 1, length of the document index
    4N  int32               tokens in each sentence
    8N  int64               byte in .bin where each sentence begins
    8(D + 1) int64          sentence with which each document begins; the last entry is N

Source: Megatron-LM, megatron/core/datasets/indexed_dataset.py. A store made by its preprocess_data.py with
--split-sentences reads here, and ours reads there.

`dsparse.data.writer` writes it, `dsparse.data.shards` reads several as one.

Shapes: N sentences, D documents.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsparse.data.search import last_not_above
from dsparse.errors import UserError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
DTYPE_OF_CODE: dict[int, np.dtype[Any]] = {
    code: np.dtype(name).newbyteorder("<")
    for code, name in ((1, "u1"), (2, "i1"), (3, "i2"), (4, "i4"), (5, "i8"), (8, "u2"))
}
"""Megatron's codes of the integer dtypes."""

HEADER = struct.Struct("<9sQBQQ")
"""Magic, version, dtype code, N and D + 1."""
CHUNK = 1 << 20
"""Sentences or tokens handled at once where an array could be larger than memory."""

# Megatron's own bound for uint16, a little under 2**16.
_UINT16_VOCAB_SIZE = 65500
_DOCUMENTS_APART = 64
_REMAKE = "make the store again with data_prep/prepare.py --overwrite"


def smallest_dtype(vocab_size: int) -> np.dtype[Any]:
    """uint16 where the vocabulary fits it, else int32: Megatron's choice."""
    return np.dtype("<u2") if vocab_size < _UINT16_VOCAB_SIZE else np.dtype("<i4")


class TokenStore:
    """Reader of one `.bin`/`.idx` pair. Everything is memory-mapped, so opening costs nothing and forks share pages; in
    memory are 8 bytes for every 64 documents.

    Opening checks what is cheap: magic, version, sizes of both files against the header, first and last entries.
    `problems` checks the rest.
    """

    prefix: Path
    """Path of the pair without its suffix."""
    tokens: NDArray[np.integer]
    """Token ids of the whole split."""
    lengths_N: NDArray[np.int32]
    """Tokens in each sentence."""
    starts_N: NDArray[np.int64]
    """Byte in .bin where each sentence begins."""
    documents: NDArray[np.int64]
    """[D + 1], the sentence with which each document begins, then N."""

    def __init__(self, prefix: str | Path) -> None:
        """Opens the pair.

        Args:
            prefix: path without suffix, such as STORE/train-00000.

        Raises:
            UserError: a file is missing, truncated or not of this format.
        """
        self.prefix = Path(prefix)
        self.idx_path, self.bin_path = with_suffix(self.prefix, ".idx"), with_suffix(self.prefix, ".bin")
        for path in (self.idx_path, self.bin_path):
            if not path.is_file():
                raise UserError(f"Expected a file {path}. Got none; {_REMAKE}.")
        dtype, num_sentences, num_bounds = self._read_header()
        offset = HEADER.size
        index = _map(self.idx_path)
        self.lengths_N, offset = _array(index, np.dtype("<i4"), num_sentences, offset)
        self.starts_N, offset = _array(index, np.dtype("<i8"), num_sentences, offset)
        self.documents, _ = _array(index, np.dtype("<i8"), num_bounds, offset)
        num_bytes = self.bin_path.stat().st_size
        wanted_bytes = (int(self.starts_N[-1]) + int(self.lengths_N[-1]) * dtype.itemsize) if num_sentences else 0
        if num_bytes != wanted_bytes:
            raise UserError(
                f"Expected {self.bin_path} to hold {wanted_bytes} bytes, as its index says. Got {num_bytes}: "
                f"it is {'truncated' if num_bytes < wanted_bytes else 'of another index'}; {_REMAKE}."
            )
        self._log_itemsize = dtype.itemsize.bit_length() - 1
        # An empty file cannot be mapped.
        content = [_map(self.bin_path)] if num_bytes else []
        self.tokens = np.frombuffer(content[0], dtype) if content else np.empty(0, dtype)
        self._maps = [index, *content]
        if self.documents[0] != 0 or self.documents[-1] != num_sentences:
            raise UserError(
                f"Expected the document index of {self.idx_path} to run from 0 to {num_sentences}. "
                f"Got {self.documents[0]} to {self.documents[-1]}; {_REMAKE}."
            )
        # Searched first, so that looking up a document touches one place of the file and not twenty.
        self._every_nth_document = self.documents[::_DOCUMENTS_APART].astype(np.int64)

    def __reduce__(self) -> tuple[type[TokenStore], tuple[Path]]:
        # A worker process maps the files itself instead of being sent their contents.
        return TokenStore, (self.prefix,)

    @property
    def num_sentences(self) -> int:
        """N."""
        return len(self.lengths_N)

    @property
    def num_documents(self) -> int:
        """D."""
        return len(self.documents) - 1

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole split."""
        return len(self.tokens)

    def sentence(self, number: int) -> NDArray[np.integer]:
        """The token ids of one sentence, a view of the file."""
        start = int(self.starts_N[number]) // self.tokens.itemsize
        return self.tokens[start : start + int(self.lengths_N[number])]

    def token_offsets(self, sentences: NDArray[np.int64]) -> NDArray[np.int64]:
        """The token with which each of these sentences begins; for the number N, the end of the last.

        Args:
            sentences: int64 of any shape, 0 <= number <= N.

        Returns:
            int64 of the same shape.
        """
        num_sentences = self.num_sentences
        # Shifting is several times faster than dividing.
        starts = self.starts_N[np.minimum(sentences, num_sentences - 1)] >> self._log_itemsize
        return np.where(sentences < num_sentences, starts, self.num_tokens)

    def document_bounds(self, documents: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sentence with which each of these documents begins; for the number D, N.

        Args:
            documents: int64 of any shape, 0 <= number <= D.

        Returns:
            int64 of the same shape.
        """
        return self.documents[documents]

    def documents_of(self, sentences: NDArray[np.int64]) -> NDArray[np.int64]:
        """The document that each of these sentences belongs to.

        Args:
            sentences: int64 of any shape, 0 <= number < N.

        Returns:
            int64 of the same shape.
        """
        begin = (np.searchsorted(self._every_nth_document, sentences, side="right") - 1) * _DOCUMENTS_APART
        end = np.minimum(begin + _DOCUMENTS_APART, self.num_documents)
        return last_not_above(self.document_bounds, sentences, begin, np.maximum(end, begin + 1))

    def tokens_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ids of tokens by their positions in the pair.

        Args:
            positions: int64 of any shape, 0 <= position < num_tokens.

        Returns:
            int64 of the same shape.
        """
        return self.tokens[positions].astype(np.int64)

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """While the files are read from end to end: lets the system read ahead, which it else does not.

        A batch needs a page here and one there. Some systems read megabytes ahead at each, and a corpus that is not in
        memory is then read hundreds of times slower.
        """
        for mapped in self._maps:
            mapped.madvise(mmap.MADV_NORMAL)
        try:
            yield
        finally:
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_RANDOM)

    def release(self) -> None:
        """Gives back the memory of what was read so far; it is read again where it is needed.

        Pages of a file that is mapped count as this process's memory until somebody wants it.
        """
        for mapped in self._maps:
            mapped.madvise(mmap.MADV_DONTNEED)

    def problems(self, vocab_size: int) -> list[str]:
        """Reads everything and says what is wrong, one line each; an empty list is a sound store.

        Args:
            vocab_size: every token must be below it.
        """
        with self.in_order():
            return [*self._problems_of_index(), *self._problems_of_tokens(vocab_size)]

    def _problems_of_index(self) -> Iterator[str]:
        expected_start = 0
        for first in range(0, self.num_sentences, CHUNK):
            lengths = self.lengths_N[first : first + CHUNK].astype(np.int64)
            ends = expected_start + np.cumsum(lengths) * self.tokens.itemsize
            starts = np.concatenate([[expected_start], ends[:-1]])
            wrong = np.flatnonzero((lengths < 1) | (self.starts_N[first : first + CHUNK] != starts))
            if len(wrong):
                yield (
                    f"{self.idx_path}: sentence {first + int(wrong[0])} is empty or does not begin where the one "
                    "before it ends"
                )
                return
            expected_start = int(ends[-1])
            self.release()
        for first in range(0, self.num_documents, CHUNK):
            unordered = np.flatnonzero(np.diff(self.documents[first : first + CHUNK + 1]) < 1)
            if len(unordered):
                document = first + int(unordered[0])
                yield f"{self.idx_path}: document {document} holds no sentence or ends before it begins"
                return

    def _problems_of_tokens(self, vocab_size: int) -> Iterator[str]:
        for first in range(0, self.num_tokens, CHUNK):
            chunk = self.tokens[first : first + CHUNK]
            wrong = np.flatnonzero((chunk < 0) | (chunk >= vocab_size))
            if len(wrong):
                place = int(wrong[0])
                yield (
                    f"{self.bin_path}: token {first + place} is {int(chunk[place])}, "
                    f"not one of the {vocab_size} ids of the vocabulary"
                )
                return
            self.release()

    def _read_header(self) -> tuple[np.dtype[Any], int, int]:
        """Token dtype, N and D + 1, with the size of the file checked against them."""
        with open(self.idx_path, "rb") as stream:
            raw = stream.read(HEADER.size)
        if len(raw) < HEADER.size or not raw.startswith(MAGIC):
            raise UserError(f"Expected {self.idx_path} to begin with Megatron's {MAGIC!r}. Got {raw[:9]!r}; {_REMAKE}.")
        _, version, code, num_sentences, num_bounds = HEADER.unpack(raw)
        if version != VERSION or code not in DTYPE_OF_CODE:
            raise UserError(
                f"Expected {self.idx_path} to be of version {VERSION} with a dtype code of {sorted(DTYPE_OF_CODE)}. "
                f"Got version {version} and code {code}; {_REMAKE}."
            )
        num_bytes, wanted_bytes = self.idx_path.stat().st_size, HEADER.size + 12 * num_sentences + 8 * num_bounds
        if num_bytes != wanted_bytes or num_bounds < 1:
            raise UserError(
                f"Expected {self.idx_path} to hold {wanted_bytes} bytes for {num_sentences} sentences and "
                f"{num_bounds} document bounds. Got {num_bytes}: it is truncated or altered; {_REMAKE}."
            )
        return DTYPE_OF_CODE[code], num_sentences, num_bounds


def _map(path: Path) -> mmap.mmap:
    """A file of which pages here and there will be read."""
    with path.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.madvise(mmap.MADV_RANDOM)
    return mapped


def _array(mapped: mmap.mmap, dtype: np.dtype[Any], count: int, offset: int) -> tuple[NDArray[Any], int]:
    """An array of a file, and the byte after it."""
    array = np.frombuffer(mapped, dtype, count, offset) if count else np.empty(0, dtype)
    return array, offset + array.nbytes


def with_suffix(prefix: Path, suffix: str) -> Path:
    """The prefix and the suffix; unlike Path.with_suffix it keeps a dot in the prefix's name."""
    return prefix.with_name(prefix.name + suffix)
