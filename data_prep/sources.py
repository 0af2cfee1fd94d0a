"""Where text comes from: `installed-docs`, `text:DIR` or `jsonl:FILE`.

A source is read in *parts*, small enough to be handed to a worker process, which turns each into documents. Parts come
in a fixed order, and what is in memory at once is a few parts, however large the source.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from data_prep.clean import is_prose, prose_of_markup, prose_of_text
from data_prep.docstrings import docstrings_of, installed_modules
from data_prep.sentences import split_sentences
from dsparse.errors import UserError

PART_BYTES = 1 << 20
"""About so much of a file is one part."""
TEXT_SUFFIXES, MARKUP_SUFFIXES = (".text", ".txt"), (".md", ".rst")

Paragraphs = list[list[str]]
"""A document: its paragraphs, each a list of sentences."""


class Part(Protocol):
    """A piece of a source."""

    @property
    def num_bytes(self) -> int:
        """For the progress bar."""

    @property
    def goes_on(self) -> bool:
        """Whether its first document goes on with the last of the part before it."""

    def documents(self) -> list[Paragraphs]:
        """Reads, cleans and splits; called in a worker process.

        Raises:
            UserError: the input is malformed; names file and line.
        """


class Source(Protocol):
    """What a --source names."""

    @property
    def is_repetitive(self) -> bool:
        """Whether paragraphs that were seen before are dropped, not only whole documents."""

    def parts(self) -> Iterator[Part]:
        """The parts in a fixed order."""

    def size(self) -> dict[str, int] | None:
        """Number of files and of bytes, by which a change is noticed; None where the content is not the user's."""

    def num_bytes(self) -> int:
        """Bytes of all parts."""


def parse_source(spec: str, *, jsonl_field: str = "text") -> Source:
    """The source that a --source names.

    Args:
        spec: `installed-docs`, `text:DIR` (or a single file) or `jsonl:FILE`.
        jsonl_field: name of the text in each JSON line.

    Raises:
        UserError: the name is unknown, or there is nothing at the path.
    """
    kind, _, place = spec.partition(":")
    if spec == "installed-docs":
        return InstalledDocs(tuple(installed_modules()))
    if kind == "text" and place:
        return TextFiles(_text_files(Path(place)))
    if kind == "jsonl" and place:
        if not Path(place).is_file():
            raise UserError(f"Expected a file of JSON lines in --source {spec}. Got no file at {place}.")
        return JsonLines(Path(place), jsonl_field)
    raise UserError(f"Expected --source installed-docs, text:DIR or jsonl:FILE. Got {spec!r}.")


@dataclass(frozen=True)
class InstalledDocs:
    """Docstrings of the standard library and the installed packages."""

    paths: tuple[Path, ...]
    is_repetitive: bool = True

    def parts(self) -> Iterator[Part]:
        """A part for each module."""
        return (Module(path, path.stat().st_size) for path in self.paths)

    def size(self) -> None:
        """Installing a package does not spoil a store."""
        return None

    def num_bytes(self) -> int:
        """Bytes of all modules."""
        return sum(path.stat().st_size for path in self.paths)


@dataclass(frozen=True)
class Module:
    """A Python file."""

    path: Path
    num_bytes: int
    goes_on: bool = False

    def documents(self) -> list[Paragraphs]:
        """One document, or none if nothing in the docstrings is prose."""
        texts = docstrings_of(self.path.read_bytes())
        return [[_prose_sentences(paragraph) for text in texts for paragraph in prose_of_markup(text)]]


@dataclass(frozen=True)
class TextFiles:
    """Files of text, each a document."""

    paths: tuple[Path, ...]
    is_repetitive: bool = False

    def parts(self) -> Iterator[Part]:
        """A part for each file, several for a long one."""
        for path in self.paths:
            for first_line, data in _read_in_parts(path, only_between_paragraphs=True):
                yield TextPart(path, first_line, data)

    def size(self) -> dict[str, int]:
        """Files and bytes."""
        return {"num_files": len(self.paths), "num_bytes": self.num_bytes()}

    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.paths)


@dataclass(frozen=True)
class TextPart:
    """A file of text or a stretch of a long one."""

    path: Path
    first_line: int
    data: bytes

    @property
    def num_bytes(self) -> int:
        """Length."""
        return len(self.data)

    @property
    def goes_on(self) -> bool:
        """A file is one document, however long."""
        return self.first_line > 1

    def documents(self) -> list[Paragraphs]:
        """One document, or a stretch of one."""
        text = _decode(self.data, self.path, self.first_line)
        if self.path.suffix.lower() in MARKUP_SUFFIXES:
            return [[_prose_sentences(paragraph) for paragraph in prose_of_markup(text)]]
        return [[split_sentences(paragraph) for paragraph in prose_of_text(text)]]


@dataclass(frozen=True)
class JsonLines:
    """A file with a JSON object, a document, on each line."""

    path: Path
    field: str
    is_repetitive: bool = False

    def parts(self) -> Iterator[Part]:
        """Parts of whole lines."""
        for first_line, data in _read_in_parts(self.path, only_between_paragraphs=False):
            yield JsonPart(self.path, self.field, first_line, data)

    def size(self) -> dict[str, int]:
        """One file and its bytes."""
        return {"num_files": 1, "num_bytes": self.num_bytes()}

    def num_bytes(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size


@dataclass(frozen=True)
class JsonPart:
    """Some lines of a JSON lines file."""

    path: Path
    field: str
    first_line: int
    data: bytes
    goes_on: bool = False

    @property
    def num_bytes(self) -> int:
        """Length."""
        return len(self.data)

    def documents(self) -> list[Paragraphs]:
        """A document for each line that is not blank."""
        found = []
        for number, line in enumerate(self.data.split(b"\n"), start=self.first_line):
            if line.strip():
                text = self._text_of(_decode(line, self.path, number), number)
                found.append([split_sentences(paragraph) for paragraph in prose_of_text(text)])
        return found

    def _text_of(self, line: str, number: int) -> str:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"Expected JSON in {self.path}, line {number}. Got {_shown(line)}: {error}.") from None
        text = record.get(self.field) if isinstance(record, dict) else None
        if not isinstance(text, str):
            raise UserError(
                f"Expected an object with a text {self.field!r} in {self.path}, line {number}. Got {_shown(line)}; "
                "--jsonl-field names another one."
            )
        return text


def _text_files(place: Path) -> tuple[Path, ...]:
    if place.is_file():
        return (place,)
    if not place.is_dir():
        raise UserError(f"Expected a folder of text in --source text:{place}. Got no such folder.")
    suffixes = TEXT_SUFFIXES + MARKUP_SUFFIXES
    # Hidden folders are nobody's text: a store being made in this very folder is one.
    paths = tuple(
        sorted(
            path
            for path in place.rglob("*")
            if path.suffix.lower() in suffixes
            and path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(place).parts)
        )
    )
    if not paths:
        raise UserError(f"Expected files named {', '.join('*' + s for s in suffixes)} under {place}. Got none.")
    return paths


def _read_in_parts(path: Path, *, only_between_paragraphs: bool) -> Iterator[tuple[int, bytes]]:
    """Whole lines of a file, at least PART_BYTES at a time, with the number of the first."""
    first_line, number, lines, num_bytes = 1, 0, [], 0
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            lines.append(line)
            num_bytes += len(line)
            if num_bytes >= PART_BYTES and not (only_between_paragraphs and line.strip()):
                yield first_line, b"".join(lines)
                first_line, lines, num_bytes = number + 1, [], 0
    if lines:
        yield first_line, b"".join(lines)


def _decode(data: bytes, path: Path, first_line: int) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        raise UserError(
            f"Expected UTF-8 in {path}, line {line}. Got byte 0x{data[error.start]:02x}; convert the file with iconv."
        ) from None


def _prose_sentences(paragraph: str) -> list[str]:
    return [sentence for sentence in split_sentences(paragraph) if is_prose(sentence)]


def _shown(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:60] + "…")
