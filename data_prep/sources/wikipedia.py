"""`wikipedia-xml:` — the articles of a dump of the English Wikipedia.

A dump is cut behind `</page>`, on bytes: text in it is escaped, so the tag stands nowhere else. Kept are the pages of
namespace 0 that are neither redirects nor disambiguation pages. Whether a page disambiguates is known by its title or
by a template, whose names are those of the English Wikipedia; in another language such pages come as articles.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.sources.base import (
    DISAMBIGUATION,
    EMPTY,
    NOT_ARTICLE,
    NOT_UTF8,
    NOT_WIKITEXT,
    NOT_XML,
    NUL_BYTES,
    REDIRECT,
    TORN,
    Chunk,
    Document,
    Item,
    Problem,
    Skipped,
    shown,
)
from data_prep.sources.cutting import Cutting, Piece, chunks_of
from data_prep.sources.files import Inputs, OfFiles, find_inputs
from data_prep.sources.wikitext import prose_of_wikitext
from data_prep.sources.wikitext_bounds import NotWikitextError

SUFFIXES = (".xml",)
_PAGE_END = re.compile(rb"</page>")
_PAGE_BEGIN = re.compile(rb"<page[\s>]")
_WORD = re.compile(rb"\S")
_FOOTER = re.compile(rb"\s*(?:</mediawiki>\s*)?")
_TITLE = re.compile(rb"<title>([^<]{1,400})</title>")
_REDIRECT = re.compile(r"\s*#redirect\b", re.IGNORECASE)
_DISAMBIGUATION = re.compile(
    r"\{\{\s*(?:template:)?"
    # {{disambiguation needed}} is said of a link in an article.
    r"(?:(?:[a-z-]+[ _]){0,3}disambig(?:uation)?(?![ _]needed)(?:[ _-][^|{}]{0,60})?|dab|dabpage|disamb|"
    r"(?:hn|geo|school|hospital|road|number)dis(?:[ _-][^|{}]{0,60})?|letter-numbercombdisambig|mathdab)\s*[|}]",
    re.IGNORECASE,
)
_IS_TITLE_OF_DISAMBIGUATION = re.compile(r".*\(disambiguation\)", re.IGNORECASE)
_CUTTING = Cutting(_PAGE_END)


@dataclass(frozen=True)
class WikipediaDump(OfFiles):
    """A dump, or the files that one was given out in."""

    label: str
    inputs: Inputs
    cutting: Cutting = _CUTTING
    is_repetitive: bool = False

    @classmethod
    def at(cls, label: str, place: Path) -> WikipediaDump:
        """The source of a dump, or of all those below a folder.

        Raises:
            UserError: there is none.
        """
        return cls(label, find_inputs(label, place, SUFFIXES))

    def chunks(self) -> Iterator[Chunk]:
        """Some pages each."""
        return chunks_of(self.inputs, read_pages, self.cutting)


def read_pages(piece: Piece) -> Iterator[Item]:
    """An item for each page, and for what should be one."""
    end = 0
    for match in _PAGE_END.finditer(piece.data):
        begin = _PAGE_BEGIN.search(piece.data, end, match.end())
        if begin is None:
            yield _not_xml(piece, end, "a page ends here that does not begin")
        else:
            # Before the first page of a file stands what the dump says of itself.
            if piece.data[end : begin.start()].strip() and (piece.first_line > 1 or end > 0):
                yield _not_xml(piece, end, "here is something between the pages")
            yield _read_page(piece, begin.start(), match.end())
        end = match.end()
    if not _FOOTER.fullmatch(piece.data, end):
        if _PAGE_BEGIN.search(piece.data, end):
            yield Problem(TORN, _place(piece, end), "fetch the file again: it ends inside a page")
        else:
            yield _not_xml(piece, end, "there is no page of a dump in it")


def _read_page(piece: Piece, begin: int, end: int) -> Item:
    data = piece.data[begin:end]
    title = _TITLE.search(data)
    place = f"{shown(piece.path)}: {title[1].decode(errors='replace')}" if title else _place(piece, begin)
    if b"\0" in data:
        return Problem(NUL_BYTES, place, "fetch the file again")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return Problem(NOT_UTF8, f"{place}, byte {error.start + 1}", "fetch the file again")
    try:
        page = ET.fromstring(data)
    except (ET.ParseError, ValueError) as error:
        return Problem(NOT_XML, place, f"fetch the file again ({error})")
    name = page.findtext("title") or ""
    place = f"{shown(piece.path)}: {name}" if name else place
    try:
        reason, text = _article(page, name)
    except NotWikitextError as error:
        return Problem(NOT_WIKITEXT, place, f"mend the page or leave it out ({error})")
    return Skipped(reason, place) if reason else Document(place, text)


def _article(page: ET.Element, title: str) -> tuple[str, str]:
    """Why a page is left out, or "" and its prose.

    Raises:
        NotWikitextError: no parser could read it.
    """
    revisions = page.findall("revision")
    if not revisions or (page.findtext("ns") or "0").strip() != "0":
        return NOT_ARTICLE, ""
    # The last of a history is what stands.
    revision = revisions[-1]
    wikitext = revision.findtext("text") or ""
    if page.find("redirect") is not None or _REDIRECT.match(wikitext):
        return REDIRECT, ""
    if (revision.findtext("model") or "wikitext") != "wikitext":
        return NOT_ARTICLE, ""
    if _IS_TITLE_OF_DISAMBIGUATION.fullmatch(title) or _DISAMBIGUATION.search(wikitext):
        return DISAMBIGUATION, ""
    text = prose_of_wikitext(wikitext)
    return ("", text) if text else (EMPTY, "")


def _not_xml(piece: Piece, begin: int, what: str) -> Problem:
    word = _WORD.search(piece.data, begin)
    return Problem(
        NOT_XML,
        _place(piece, word.start() if word else begin),
        f"give a dump of pages as Wikimedia makes them ({what})",
    )


def _place(piece: Piece, begin: int) -> str:
    return piece.place_of_line(piece.first_line + piece.data.count(b"\n", 0, begin))
