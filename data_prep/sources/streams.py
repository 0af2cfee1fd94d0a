"""Reads a file that may be compressed, block by block, and tells a whole one from a torn one.

The objects of the standard library that look like files will not do: what they had read before a tear is lost, and
bz2's takes a damaged stream behind a good one for the end, which loses the rest of a dump without a word.
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from backports import zstd

from data_prep.sources.base import TORN, Problem, shown
from data_prep.sources.files import unreadable

BLOCK_BYTES = 1 << 18
"""So much is read at once, and so much comes out at once however well it was compressed."""
_MAX_ZSTD_WINDOW_LOG = 31  # what `zstd --long=31` writes


class InputError(Exception):
    """A file cannot be read to its end."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


class _Decompressor(Protocol):
    """One compressed stream; a file may be several, one behind the other."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gunzip:
    """zlib's object in the form that those of bz2 and zstd have."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


def _unzstd() -> _Decompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _MAX_ZSTD_WINDOW_LOG})


_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    ".bz2": bz2.BZ2Decompressor,
    ".gz": _Gunzip,
    ".zst": _unzstd,
}


def read_blocks(stream: BinaryIO, path: Path) -> Iterator[bytes]:
    """What a file holds, decompressed if its name says so, in blocks of at most BLOCK_BYTES.

    Raises:
        InputError: the file is torn or damaged, or the system does not read it; all blocks before that were yielded.
    """
    new = _DECOMPRESSORS.get(path.suffix.lower())
    try:
        if new is None:
            while block := stream.read(BLOCK_BYTES):
                yield block
        else:
            yield from _decompressed(stream, new)
    except (EOFError, OSError, zlib.error, zstd.ZstdError) as error:
        # An error without a number is that of a decompressor.
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(unreadable(error, path)) from None
        place = f"{shown(path)}, byte {stream.tell()} of the compressed file"
        raise InputError(Problem(TORN, place, f"fetch or make the file again ({error})")) from None


def _decompressed(stream: BinaryIO, new: Callable[[], _Decompressor]) -> Iterator[bytes]:
    decompressor, data, is_first, is_at_end = new(), b"", True, False
    is_between = True
    while True:
        if not data and (is_between or decompressor.needs_input):
            data = stream.read(BLOCK_BYTES)
            is_at_end = not data
        if is_between:
            # Tapes and block devices leave zeros behind a stream.
            data = data if is_first else data.lstrip(b"\0")
            if not data:
                if is_at_end:
                    return
                continue
            decompressor, is_first, is_between = new(), False, False
        block, data = decompressor.decompress(data, BLOCK_BYTES), b""
        if block:
            yield block
        elif is_at_end and not decompressor.eof:
            raise EOFError("it ends in the middle of a compressed stream")
        if decompressor.eof:
            data, is_between = decompressor.unused_data, True
