"""`parquet:` — Parquet files with a document in each row.

Chunks are ranges of rows inside a row group; the worker reads them itself. A row group has no place to begin but its
own, so what stands before the range is decoded again, which is why ranges are longer than other chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.sources.base import (
    CHUNK_BYTES,
    EMPTY,
    MAX_DOCUMENT_BYTES,
    NO_TEXT,
    NOT_PARQUET,
    NOT_UTF8,
    TORN,
    UNREADABLE,
    Chunk,
    Document,
    Item,
    ItemChunk,
    Problem,
    Skipped,
    find_unusable,
    shown,
    too_long,
)
from data_prep.sources.files import InputFile, Inputs, OfFiles, find_inputs, unreadable
from data_prep.sources.text import paragraphs_of

SUFFIXES = (".parquet", ".pq")
_MAGIC = b"PAR1"
_BATCH_BYTES, _MAX_BATCH_ROWS = 1 << 20, 1024
_READ_BYTES = 1 << 20
_MAX_EXPANSION = 1000
_ERRORS = (pa.ArrowException, OSError, ValueError, KeyError, NotImplementedError)
_MAX_COLUMNS_SHOWN = 12


@dataclass(frozen=True)
class ParquetFiles(OfFiles):
    """Parquet files, one text column of each."""

    label: str
    inputs: Inputs
    field: str
    chunk_bytes: int = 4 * CHUNK_BYTES
    is_repetitive: bool = False

    @classmethod
    def at(cls, label: str, place: Path, *, field: str) -> ParquetFiles:
        """The source of a file, or of all those below a folder.

        Raises:
            UserError: there is none.
        """
        return cls(label, find_inputs(label, place, SUFFIXES), field)

    def chunks(self) -> Iterator[Chunk]:
        """Ranges of rows, from the files' directories alone."""
        if self.inputs.problems:
            yield ItemChunk(self.inputs.problems, 0)
        for file in self.inputs.files:
            try:
                found = list(self._chunks_of(file))
            except _ERRORS as error:
                found = [ItemChunk((_problem_of_file(file, error),), file.num_bytes)]
            yield from found

    def _chunks_of(self, file: InputFile) -> Iterator[Chunk]:
        place = shown(file.path)
        with _open(file.path) as opened:
            problem = _problem_of_column(opened.schema_arrow, self.field, place)
            metadata = opened.metadata
        if problem is not None or metadata.num_rows == 0:
            yield ItemChunk((problem if problem is not None else Skipped(EMPTY, place),), file.num_bytes)
            return
        group_rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        if sum(group_rows) != metadata.num_rows or min(group_rows) < 0:
            raise ValueError("its row groups have other rows than the file")
        column = metadata.schema.to_arrow_schema().names.index(self.field)
        done = 0
        for group, num_rows in enumerate(group_rows):
            # A damaged length is not to make chunks without end.
            size = min(_column_bytes(metadata, group, column), _MAX_EXPANSION * file.num_bytes)
            num_ranges = max(min(-(-size // self.chunk_bytes), num_rows), 1)
            for number in range(num_ranges):
                rows = range(num_rows * number // num_ranges, num_rows * (number + 1) // num_ranges)
                # Its share of the file, such that the shares add up.
                begin, end = ((done + row) * file.num_bytes // metadata.num_rows for row in (rows.start, rows.stop))
                row_bytes = max(size // max(num_rows, 1), 1)
                yield RowChunk(file.path, self.field, group, rows, done + 1, row_bytes, end - begin)
            done += num_rows


@dataclass(frozen=True)
class RowChunk:
    """Some rows of a row group."""

    path: Path
    field: str
    group: int
    rows: range
    first_row: int
    """Number of the group's first row in the file, from 1."""
    row_bytes: int
    """About so long is a text."""
    num_bytes: int

    def items(self) -> Iterator[Item]:
        """A document for each row."""
        row = self.rows.start
        try:
            for row, value in self._values():
                yield _item_of(value, f"{shown(self.path)}, row {self.first_row + row}")
        except _ERRORS as error:
            rest = f"{shown(self.path)}, rows {self.first_row + row} to {self.first_row + self.rows.stop - 1}"
            yield Problem(UNREADABLE, rest, f"fetch or make the file again ({_line(error)})")

    def _values(self) -> Iterator[tuple[int, bytes | None]]:
        batch_rows = min(max(_BATCH_BYTES // self.row_bytes, 1), _MAX_BATCH_ROWS)
        row = 0
        with _open(self.path) as opened:
            for batch in opened.iter_batches(batch_rows, row_groups=[self.group], columns=[self.field]):
                begin, end = max(self.rows.start - row, 0), min(self.rows.stop - row, batch.num_rows)
                if begin < end:
                    # As bytes: a text that is not UTF-8 is one row's problem.
                    column = batch.column(0).slice(begin, end - begin)
                    for offset, value in enumerate(_as_bytes(column)):
                        yield row + begin + offset, value.as_py()
                row += batch.num_rows
                if row >= self.rows.stop:
                    return


def _open(path: Path) -> pq.ParquetFile:
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_BYTES, page_checksum_verification=True)


def _as_bytes(column: Any) -> Any:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.large_binary())


def _item_of(value: bytes | None, place: str) -> Item:
    if value is None:
        return Skipped(EMPTY, place)
    if len(value) > MAX_DOCUMENT_BYTES:
        return too_long(place, len(value))
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        return Problem(NOT_UTF8, f"{place}, byte {error.start + 1}", "write the column as a string again")
    text = paragraphs_of(text)
    return find_unusable(text, place) or (Document(place, text) if text else Skipped(EMPTY, place))


def _column_bytes(metadata: Any, group: int, column: int) -> int:
    return metadata.row_group(group).column(column).total_uncompressed_size


def _problem_of_column(schema: pa.Schema, field: str, place: str) -> Problem | None:
    names = ", ".join(ascii(name) for name in schema.names[:_MAX_COLUMNS_SHOWN])
    if schema.names.count(field) != 1:
        return Problem(NO_TEXT, place, f"name the column of the text: there is no {field!r} among {names or 'none'}")
    kind = schema.field(field).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        return Problem(NO_TEXT, place, f"name a column of strings: {field!r} holds {kind}; there are {names}")
    return None


def _problem_of_file(file: InputFile, error: Exception) -> Problem:
    if isinstance(error, OSError) and error.errno is not None:
        return unreadable(error, file.path)
    try:
        with open(file.path, "rb") as stream:
            is_torn = stream.read(len(_MAGIC)) == _MAGIC
    except OSError as again:
        return unreadable(again, file.path)
    reason = TORN if is_torn else NOT_PARQUET
    return Problem(reason, shown(file.path), f"fetch or make the file again ({_line(error)})")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
