"""Cuts files into chunks, between lines, paragraphs or pages, without ever holding much more than a chunk.

A piece ends at the first place to cut behind `cut_bytes`. What lies between two such places is a unit; one longer than
`max_bytes` is read over, block by block, and reported. Small files share a chunk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_prep.sources.base import (
    CHUNK_BYTES,
    EMPTY,
    MAX_DOCUMENT_BYTES,
    Chunk,
    Item,
    ItemChunk,
    Problem,
    Skipped,
    shown,
    too_long,
)
from data_prep.sources.files import InputFile, Inputs, unreadable
from data_prep.sources.streams import InputError, read_blocks

_OVERLAP = 1024  # a place to cut may lie across two blocks
_ITEM_BYTES = 1024  # what an item costs beside its text: a million empty files are more than one chunk


class Piece(NamedTuple):
    """A stretch of a file."""

    path: Path
    first_line: int
    data: bytes
    is_whole: bool
    """It is all of the file."""

    @property
    def place(self) -> str:
        """The file, and the line where the stretch begins if there are others."""
        return shown(self.path) if self.is_whole else self.place_of_line(self.first_line)

    def place_of_line(self, number: int) -> str:
        """A line of the file."""
        return f"{shown(self.path)}, line {number}"


Reader = Callable[[Piece], Iterator[Item]]
"""Makes items of a piece, in a worker process; can be pickled, and does not raise."""


@dataclass(frozen=True)
class Cutting:
    """Where files are cut."""

    between: re.Pattern[bytes]
    """A place to cut: the cut is behind what it matches."""
    chunk_bytes: int = CHUNK_BYTES
    max_bytes: int = MAX_DOCUMENT_BYTES
    """At least chunk_bytes."""
    keeps_files_whole: bool = False
    """A file is one unit."""


@dataclass(frozen=True)
class FileChunk:
    """Stretches of one or more files."""

    pieces: tuple[Piece | Problem | Skipped, ...]
    num_bytes: int
    read: Reader

    def items(self) -> Iterator[Item]:
        """Reads them."""
        for piece in self.pieces:
            if isinstance(piece, Piece):
                yield from self.read(piece)
            else:
                yield piece


def chunks_of(inputs: Inputs, read: Reader, cutting: Cutting) -> Iterator[Chunk]:
    """All files, cut."""
    if inputs.problems:
        yield ItemChunk(inputs.problems, 0)
    group: list[Piece | Problem | Skipped] = []
    size = num_bytes = 0
    for file in inputs.files:
        counted = 0
        for piece, position in _pieces_of(file, cutting):
            piece_size = _ITEM_BYTES + (len(piece.data) if isinstance(piece, Piece) else 0)
            if group and size + piece_size > cutting.chunk_bytes:
                yield FileChunk(tuple(group), num_bytes, read)
                group, size, num_bytes = [], 0, 0
            group.append(piece)
            size += piece_size
            # A file that grew meanwhile counts as long as it was.
            num_bytes += min(position, file.num_bytes) - counted
            counted = min(position, file.num_bytes)
        num_bytes += file.num_bytes - counted
    if group:
        yield FileChunk(tuple(group), num_bytes, read)


def _pieces_of(file: InputFile, cutting: Cutting) -> Iterator[tuple[Piece | Problem | Skipped, int]]:
    """Pieces of a file, each with how far the file was read for it."""
    cutter = _Cutter(file.path, cutting)
    try:
        with open(file.path, "rb") as stream:
            try:
                for block in read_blocks(stream, file.path):
                    for piece in cutter.feed(block):
                        yield piece, stream.tell()
            except InputError as error:
                yield from ((piece, stream.tell()) for piece in cutter.finish(error.problem))
            else:
                yield from ((piece, stream.tell()) for piece in cutter.finish())
    except OSError as error:
        yield unreadable(error, file.path), 0


class _Cutter:
    """Takes blocks, gives pieces."""

    def __init__(self, path: Path, cutting: Cutting) -> None:
        self._path = path
        self._between = cutting.between
        self._cut_bytes = cutting.max_bytes if cutting.keeps_files_whole else cutting.chunk_bytes
        self._keeps_whole = cutting.keeps_files_whole
        self._max_bytes = cutting.max_bytes
        self._buffer = bytearray()
        self._line = 1
        self._searched = 0
        """No place to cut begins before."""
        self._long_line = 0
        """Line where a unit that is read over begins; 0 if there is none."""
        self._long_bytes = 0
        self._is_at_begin = True

    def feed(self, block: bytes) -> Iterator[Piece | Problem]:
        """Takes a block and yields what is complete."""
        self._buffer += block
        while True:
            match = self._search()
            if match is None:
                break
            if self._long_line:
                yield self._end_long(match.end())
            else:
                yield from self._take(match.end())
        self._searched = max(len(self._buffer) - _OVERLAP, 0)
        limit = self._max_bytes if self._keeps_whole else self._cut_bytes + self._max_bytes
        if not self._long_line and len(self._buffer) > limit:
            yield from self._take(self._begin_of_last_unit())
            self._long_line = self._line
        if self._long_line:
            self._long_bytes += self._searched
            self._drop(self._searched)

    def finish(self, torn: Problem | None = None) -> Iterator[Piece | Problem | Skipped]:
        """Yields the rest; of a file that is torn, what is certainly whole."""
        if torn is not None:
            if not self._long_line:
                yield from self._take(self._begin_of_last_unit())
            yield torn
        elif self._long_line:
            yield self._end_long(len(self._buffer))
        elif self._buffer:
            yield from self._take(len(self._buffer), is_last=True)
        elif self._is_at_begin:
            yield Skipped(EMPTY, shown(self._path))

    def _search(self) -> re.Match[bytes] | None:
        if self._keeps_whole:
            return None
        begin = 0 if self._long_line else self._cut_bytes - 1
        return self._between.search(self._buffer, max(self._searched, begin))

    def _begin_of_last_unit(self, end: int | None = None) -> int:
        """Behind the last place to cut in the buffer, `end` itself left out."""
        begin = 0
        if not self._keeps_whole:
            for match in self._between.finditer(self._buffer):
                if end is not None and match.end() >= end:
                    break
                begin = match.end()
        return begin

    def _take(self, end: int, *, is_last: bool = False) -> Iterator[Piece | Problem]:
        """The buffer up to `end`; a last unit in it that is too long is reported."""
        begin = end
        if end > self._max_bytes:
            # Only the last can be: those before it are shorter than a chunk.
            begin = self._begin_of_last_unit(end)
            begin = begin if end - begin > self._max_bytes else end
        if begin:
            is_whole = self._is_at_begin and is_last and begin == end
            yield Piece(self._path, self._line, bytes(memoryview(self._buffer)[:begin]), is_whole)
            self._drop(begin)
        if begin < end:
            self._long_line = self._line
            yield self._end_long(end - begin)

    def _end_long(self, end: int) -> Problem:
        problem = too_long(f"{shown(self._path)}, line {self._long_line}", self._long_bytes + end)
        self._drop(end)
        self._long_line = self._long_bytes = 0
        return problem

    def _drop(self, end: int) -> None:
        self._line += self._buffer.count(b"\n", 0, end)
        del self._buffer[:end]
        self._searched = 0
        self._is_at_begin = self._is_at_begin and end == 0
