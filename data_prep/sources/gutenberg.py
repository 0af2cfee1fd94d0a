"""`gutenberg:` — books as Project Gutenberg gives them out, each a document.

What stands around the book goes: header, licence, who made the file. Inside it, lines are joined to paragraphs and what
belongs to the page rather than to the text goes. The marks are those of thirty years of files: since about 2005
"*** START OF …", before that the end of the small print, and at the end of the book the same or a plain line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.sources.base import EMPTY, Chunk, Document, Item, Problem, Skipped
from data_prep.sources.cutting import Cutting, Piece, chunks_of
from data_prep.sources.files import Inputs, OfFiles, find_inputs
from data_prep.sources.text import TEXT_SUFFIXES, decode, paragraphs_of

_LATIN1 = re.compile(rb"Character set encoding:[ \t]*(?:ISO[- ]?(?:8859-1|Latin-1)|Latin-?1)\b", re.IGNORECASE)
_HEADER_BYTES = 20_000  # it is declared in the first lines

# A line that ends the header, and those before it; a title may need a second line before the stars.
_START = re.compile(
    r"^[ \t]*\*{3} ?START OF (?:THE|THIS) PROJECT GUTENBERG[^*]{0,300}(?:\*{3}|$)|^.*\*END\*? ?THE SMALL PRINT!.*$",
    re.MULTILINE | re.IGNORECASE,
)
_END = re.compile(
    r"^[ \t]*(?:\*{3} ?END OF (?:THE|THIS) PROJECT GUTENBERG"
    r"|End of (?:the |this )?Project Gutenberg(?:['’]s|[ \t]+(?:e-?text|e-?book|edition))?\b)",
    re.MULTILINE | re.IGNORECASE,
)
_CREDITS = re.compile(
    r"(?:\[?(?:this |the )?(?:e-?text|e-?book|file|book)?[ ]?(?:was )?"
    r"(?:produced|prepared|scanned|transcribed|typed|digitized) (?:by|from)\b"
    r"|\[?\W*transcriber['’]?s?['’]? notes?\b|\[?note: (?:project gutenberg|images of)"
    r"|.*(?:distributed proofread|www\.pgdp\.net|project gutenberg))",
    re.IGNORECASE | re.DOTALL,
)
_NUM_CREDIT_PARAGRAPHS = 12

_ILLUSTRATION = re.compile(r"\[(?:illustrations?|frontispiece|decoration|blank page)\b[^\[\]]{0,2000}\]", re.IGNORECASE)
_PAGE_MARK = re.compile(r"[\[{](?:(?:pg|page|p\.)[ \t]*)?(?:\d{1,4}|[ivxlc]{1,7})[a-z]?[\]}]", re.IGNORECASE)
_PAGE_LINE = re.compile(
    r"^[ \t]*+-?[ \t]*+(?:(?:pg|page|p\.)[ \t]*+)?\d{1,4}[ \t]*+-?[ \t]*+$", re.MULTILINE | re.IGNORECASE
)
_RULE_LINE = re.compile(r"^[ \t]*+(?:[*·•][ \t]*+){2,}$|^[ \t]*+[-_=~]{3,}+[ \t]*+$", re.MULTILINE)
_EMPHASIS = re.compile(r"(?<![\w_])_([^_\n]+(?:\n[^_\n]+){0,4})_(?![\w_])")
_SPACES = re.compile(r"[ \t\n]+")
_CUTTING = Cutting(re.compile(rb"(?!)"), keeps_files_whole=True)


@dataclass(frozen=True)
class Books(OfFiles):
    """Books, one a file."""

    label: str
    inputs: Inputs
    cutting: Cutting = _CUTTING
    is_repetitive: bool = False

    @classmethod
    def at(cls, label: str, place: Path) -> Books:
        """The source of a book, or of all those below a folder.

        Raises:
            UserError: there is none.
        """
        return cls(label, find_inputs(label, place, TEXT_SUFFIXES))

    def chunks(self) -> Iterator[Chunk]:
        """Some books each."""
        return chunks_of(self.inputs, read_book, self.cutting)


def read_book(piece: Piece) -> Iterator[Item]:
    """The document of a file."""
    text = decode(piece)
    if isinstance(text, Problem) and b"\0" not in piece.data and _LATIN1.search(piece.data, 0, _HEADER_BYTES):
        text = piece.data.decode("latin-1")
    if isinstance(text, Problem):
        yield text
        return
    book = prose_of_book(text)
    yield Document(piece.place, book) if book else Skipped(EMPTY, piece.place)


def prose_of_book(text: str) -> str:
    """The paragraphs of a book, each on one line, without what was put around and between them."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # Some files of the nineties have the small print behind the book.
    header = max(len(text) // 3, _HEADER_BYTES)
    begin = max((start.end() for start in _START.finditer(text) if start.start() < header), default=0)
    end = _END.search(text, begin)
    text = text[begin : end.start() if end is not None else len(text)]
    for pattern in (_ILLUSTRATION, _PAGE_MARK, _PAGE_LINE, _RULE_LINE):
        text = pattern.sub("", text)
    text = _EMPHASIS.sub(r"\1", text)
    paragraphs = paragraphs_of(text).split("\n\n")
    head = [paragraph for paragraph in paragraphs[:_NUM_CREDIT_PARAGRAPHS] if not _CREDITS.match(paragraph)]
    joined = (_SPACES.sub(" ", paragraph).strip() for paragraph in (*head, *paragraphs[_NUM_CREDIT_PARAGRAPHS:]))
    return "\n\n".join(paragraph for paragraph in joined if paragraph)
