"""What a source gives: documents, what was wrong with the input, and what was left out on purpose.

A source is read in two steps. `Source.chunks`, in the main process, cuts the raw input into stretches: it decompresses
and finds places to cut, and that is all. `Chunk.items`, in a worker process, decodes, parses and strips one stretch.
Cuts and items are functions of the input alone, whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

CHUNK_BYTES = 8 << 20
"""About so much of the input is a chunk."""
MAX_DOCUMENT_BYTES = 16 << 20
"""A longer document (a line of JSON, a page, a row, a paragraph of a text file) is not read but reported."""

NOT_UTF8 = "not UTF-8"
NUL_BYTES = "NUL bytes"
TOO_LONG = "too long"
TORN = "torn file"
UNREADABLE = "unreadable"
NOT_JSON = "not JSON"
NO_TEXT = "no text field"
NOT_XML = "not XML"
NOT_WIKITEXT = "not wikitext"
NOT_PARQUET = "not Parquet"
LONE_SURROGATE = "lone surrogate"

REDIRECT = "redirect"
DISAMBIGUATION = "disambiguation"
NOT_ARTICLE = "not an article"
EMPTY = "empty"


class Document(NamedTuple):
    """A text as its author wrote it, but for markup."""

    place: str
    """Where it came from, for messages: "books/a.txt", "dump.xml.bz2: Alan Turing", "x.jsonl, line 7"."""
    text: str
    """Paragraphs parted by blank lines."""


class Problem(NamedTuple):
    """Something in the input that could not be read."""

    reason: str
    """One of a fixed set, above."""
    place: str
    """File and position: line, byte, row or title."""
    advice: str
    """What to do."""


class Skipped(NamedTuple):
    """Something left out on purpose."""

    reason: str
    place: str


Item = Document | Problem | Skipped


class Chunk(Protocol):
    """A stretch of a source that can be pickled, for a worker process."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the input as it lies on disk; over all chunks they add up to those of the source."""

    def items(self) -> Iterator[Item]:
        """Reads the stretch; what is wrong with it comes as a `Problem`, never as an error."""


class Source(Protocol):
    """What a --source names."""

    @property
    def label(self) -> str:
        """As it was given."""

    @property
    def is_repetitive(self) -> bool:
        """Whether paragraphs that were seen before are dropped, not only whole documents."""

    def files(self) -> list[Path]:
        """Every input file in order; empty where the content is not the user's."""

    def num_bytes(self) -> int:
        """Bytes of the input as it lies on disk; 0 where that is unknown."""

    def state(self) -> str:
        """What besides the files decides how it is cut: what could not be listed, which modules are installed."""

    def chunks(self) -> Iterator[Chunk]:
        """The stretches in a fixed order; a few are in memory at once, however large the source."""


@dataclass(frozen=True)
class ItemChunk:
    """Items that were there when the input was cut."""

    ready: tuple[Item, ...]
    num_bytes: int

    def items(self) -> Iterator[Item]:
        """As they are."""
        return iter(self.ready)


def find_unusable(text: str, place: str) -> Problem | None:
    """What forbids a text: NUL characters, or half of a surrogate pair, which no encoding can hold."""
    if "\0" in text:
        return Problem(NUL_BYTES, place, "leave out what is not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return Problem(LONE_SURROGATE, f"{place}, character {error.start + 1}", "write the text again as UTF-8")
    return None


def too_long(place: str, num_bytes: int) -> Problem:
    """The problem of a document above MAX_DOCUMENT_BYTES."""
    return Problem(TOO_LONG, place, f"cut it into documents of at most 16 MiB: this one has {num_bytes:,} bytes")


def shown(path: Path) -> str:
    """A path as it is printed: a name that is not UTF-8 keeps its bytes as escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode()
