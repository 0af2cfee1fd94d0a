"""`jsonl:` — files with a JSON object, a document, on each line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_prep.sources.base import (
    EMPTY,
    NO_TEXT,
    NOT_JSON,
    Chunk,
    Document,
    Item,
    Problem,
    Skipped,
    find_unusable,
)
from data_prep.sources.cutting import Cutting, Piece, chunks_of
from data_prep.sources.files import Inputs, OfFiles, find_inputs
from data_prep.sources.text import decode, paragraphs_of

SUFFIXES = (".jsonl", ".json", ".ndjson")
_LINE_END = re.compile(rb"\n")
_MAX_FIELDS_SHOWN = 8
_CUTTING = Cutting(_LINE_END)


@dataclass(frozen=True)
class JsonLines(OfFiles):
    """Files of JSON lines."""

    label: str
    inputs: Inputs
    field: str
    cutting: Cutting = _CUTTING
    is_repetitive: bool = False

    @classmethod
    def at(cls, label: str, place: Path, *, field: str) -> JsonLines:
        """The source of a file, or of all such files below a folder.

        Raises:
            UserError: there is none.
        """
        return cls(label, find_inputs(label, place, SUFFIXES), field)

    def chunks(self) -> Iterator[Chunk]:
        """Some lines each."""
        return chunks_of(self.inputs, partial(read_lines, field=self.field), self.cutting)


def read_lines(piece: Piece, *, field: str) -> Iterator[Item]:
    """A document for each line that is not blank."""
    for number, line in enumerate(piece.data.split(b"\n"), start=piece.first_line):
        if line.strip():
            yield _read_line(Piece(piece.path, number, line, is_whole=False), field)


def _read_line(line: Piece, field: str) -> Item:
    text = decode(line)
    if isinstance(text, Problem):
        return text
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Problem(NOT_JSON, line.place, f"mend the line or leave it out ({error})")
    value = record.get(field) if isinstance(record, dict) else None
    if not isinstance(value, str):
        return Problem(NO_TEXT, line.place, _advice(record, field))
    problem = find_unusable(value, line.place)
    if problem is not None:
        return problem
    value = paragraphs_of(value)
    return Document(line.place, value) if value else Skipped(EMPTY, line.place)


def _advice(record: object, field: str) -> str:
    if not isinstance(record, dict):
        return f"each line is an object with a text {field!r}"
    if field in record:
        return f"{field!r} is a text, not {type(record[field]).__name__}"
    names = ", ".join(ascii(name) for name in list(record)[:_MAX_FIELDS_SHOWN])
    return f"the text is in {field!r}; name another of its fields if it is not: {names or 'it has none'}"
