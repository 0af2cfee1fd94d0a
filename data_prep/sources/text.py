"""`text:` — files of plain text, reStructuredText and Markdown, each a document."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.sources.base import EMPTY, NOT_UTF8, NUL_BYTES, Chunk, Document, Item, Problem, Skipped
from data_prep.sources.cutting import Cutting, Piece, chunks_of
from data_prep.sources.files import Inputs, OfFiles, find_inputs, inner_suffix
from data_prep.text.prose import is_prose, prose_of_markup
from data_prep.text.sentences import split_sentences

TEXT_SUFFIXES, MARKUP_SUFFIXES = (".text", ".txt"), (".md", ".rst")
_BLANK_LINE = re.compile(rb"\n[ \t\r\f\v]*\n")
_BLANK_LINES = re.compile(r"\n\s*\n")
_CUTTING = Cutting(_BLANK_LINE)


@dataclass(frozen=True)
class TextFiles(OfFiles):
    """Files of text; a long one is cut between paragraphs into several documents."""

    label: str
    inputs: Inputs
    cutting: Cutting = _CUTTING
    is_repetitive: bool = False

    @classmethod
    def at(cls, label: str, place: Path) -> TextFiles:
        """The source of a file, or of all the text below a folder.

        Raises:
            UserError: there is none.
        """
        return cls(label, find_inputs(label, place, TEXT_SUFFIXES + MARKUP_SUFFIXES))

    def chunks(self) -> Iterator[Chunk]:
        """Whole files, and stretches of long ones."""
        return chunks_of(self.inputs, read_text, self.cutting)


def read_text(piece: Piece) -> Iterator[Item]:
    """The document of a file or a stretch."""
    text = decode(piece)
    if isinstance(text, Problem):
        yield text
        return
    is_markup = inner_suffix(piece.path) in MARKUP_SUFFIXES
    text = prose_of_documentation(text) if is_markup else paragraphs_of(text)
    if text:
        yield Document(piece.place, text)
    elif piece.is_whole:
        yield Skipped(EMPTY, piece.place)


def decode(piece: Piece) -> str | Problem:
    """The text of a piece, or why it is none."""
    end = piece.data.find(b"\0")
    if end >= 0:
        return Problem(NUL_BYTES, _place_of_byte(piece, end), "leave out what is not text")
    try:
        return piece.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # A byte order mark is not counted.
        begin = error.start + len(piece.data) - len(error.object)
        place = f"{_place_of_byte(piece, begin)} (0x{piece.data[begin]:02x})"
        return Problem(NOT_UTF8, place, "convert the file with iconv")


def paragraphs_of(text: str) -> str:
    """A text with one empty line, and nothing else, between its paragraphs."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _BLANK_LINES.sub("\n\n", text).strip()


def prose_of_documentation(*texts: str) -> str:
    """Paragraphs of those sentences of documentation that are prose."""
    paragraphs = (
        " ".join(sentence for sentence in split_sentences(paragraph) if is_prose(sentence))
        for text in texts
        for paragraph in prose_of_markup(text)
    )
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def _place_of_byte(piece: Piece, begin: int) -> str:
    line = piece.first_line + piece.data.count(b"\n", 0, begin)
    column = begin - piece.data.rfind(b"\n", 0, begin)
    return f"{piece.place_of_line(line)}, byte {column}"
