"""Articles out of a dump."""

from __future__ import annotations

import bz2
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources.base import Document, Item, Problem, Skipped
from data_prep.sources.cutting import Piece
from data_prep.sources.parse import parse_source
from data_prep.sources.wikipedia import WikipediaDump, read_pages
from tests.data_prep.sources.inputs import (
    SUFFIXES,
    compressed,
    documents_among,
    items_of,
    problems_among,
    tears,
    write,
)

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="en">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <namespaces><namespace key="0" case="first-letter" /></namespaces>
  </siteinfo>
"""
FOOT = "</mediawiki>\n"


def page(title: str, text: str, *, ns: str = "0", extra: str = "", model: str = "wikitext") -> str:
    return f"""  <page>
    <title>{escape(title)}</title>
    <ns>{ns}</ns>
    <id>1</id>{extra}
    <revision>
      <id>2</id>
      <model>{model}</model>
      <format>text/x-wiki</format>
      <text bytes="{len(text)}" xml:space="preserve">{escape(text)}</text>
    </revision>
  </page>
"""


def article(number: int) -> str:
    return page(
        f"Article {number}", f"'''Article''' {number} is an [[article]] &amp; more.{'<ref>a</ref>' * (number % 9)}"
    )


def read(text: str | bytes, first_line: int = 1) -> list[tuple[str, ...]]:
    data = text.encode() if isinstance(text, str) else text
    return [tuple(item)[:2] for item in read_pages(Piece(Path("d.xml"), first_line, data, is_whole=False))]


def source_at(path: Path, chunk_bytes: int, max_bytes: int = 1 << 20) -> WikipediaDump:
    source = parse_source(f"wikipedia-xml:{path}")
    assert isinstance(source, WikipediaDump)
    return replace(source, cutting=replace(source.cutting, chunk_bytes=chunk_bytes, max_bytes=max_bytes))


ALL_CASES = HEAD + "".join(
    [
        page("Alan Turing & co", "He said \"</page> is < all\".\n\n== References ==\nx"),
        page("AccessibleComputing", "#REDIRECT [[Computer accessibility]]", extra='\n<redirect title="Computer" />'),
        page("Old redirect", " #redirect [[x]]"),
        page("Talk:Alan Turing", "A page to talk.", ns="1"),
        page("Mercury", "'''Mercury''' may be:\n* A planet.\n{{disambiguation|geo}}"),
        page("Mars (disambiguation)", "It may be many things."),
        page("John Smith", "He may be many.\n{{Hndis|Smith, John}}"),
        page("Aston", "It may be many.\n{{ Human name disambiguation }}"),
        page("Needed", "It [[is]]{{disambiguation needed|date=May 2020}} here."),
        page("Other uses", "{{other uses|Other (disambiguation)}}\nIt is here."),
        page("Nothing", "{{stub}}"),
        page("Module", "return 1", model="Scribunto"),
        "  <page>\n    <title>No revision</title>\n    <ns>0</ns>\n  </page>\n",
        "  <page>\n    <title>Deleted</title>\n    <ns>0</ns>\n    <revision><text deleted=\"deleted\" /></revision>\n"
        "  </page>\n",
        "  <page>\n    <title>History</title>\n    <ns>0</ns>\n    <revision><text>Old.</text></revision>\n"
        "    <revision><text>New.</text></revision>\n  </page>\n",
    ]
) + FOOT  # fmt: skip
ALL_ITEMS = [
    ("d.xml: Alan Turing & co", 'He said " is < all".'),
    ("redirect", "d.xml: AccessibleComputing"),
    ("redirect", "d.xml: Old redirect"),
    ("not an article", "d.xml: Talk:Alan Turing"),
    ("disambiguation", "d.xml: Mercury"),
    ("disambiguation", "d.xml: Mars (disambiguation)"),
    ("disambiguation", "d.xml: John Smith"),
    ("disambiguation", "d.xml: Aston"),
    ("d.xml: Needed", "It is here."),
    ("d.xml: Other uses", "It is here."),
    ("empty", "d.xml: Nothing"),
    ("not an article", "d.xml: Module"),
    ("not an article", "d.xml: No revision"),
    ("empty", "d.xml: Deleted"),
    ("d.xml: History", "New."),
]


def test_every_kind_of_page() -> None:
    assert read(ALL_CASES) == ALL_ITEMS


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("chunk_bytes", [1, 400, 3000, 1 << 20])
def test_cuts_change_nothing(tmp_path: Path, suffix: str, chunk_bytes: int) -> None:
    path = write(tmp_path / f"d.xml{suffix}", ALL_CASES)
    items = items_of(source_at(path, chunk_bytes))
    assert [tuple(part.replace(str(path), "d.xml") for part in item[:2]) for item in items] == ALL_ITEMS


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_torn_dumps_give_their_whole_pages_and_one_problem(tmp_path: Path, suffix: str) -> None:
    """Of many streams, as Wikimedia's are: header, pages, pages, end."""
    parts = [HEAD, "".join(map(article, range(30))), "".join(map(article, range(30, 60))), FOOT]
    streams = [compressed(part.encode(), suffix) for part in parts]
    ends = [sum(map(len, streams[:number])) for number in range(5)]
    path = tmp_path / f"d.xml{suffix}"
    for length in tears(ends[-1]):
        path.write_bytes(b"".join(streams)[:length])
        items = items_of(source_at(path, 2000))
        found = [document.place for document in documents_among(items)]
        assert found == [f"{path}: Article {number}" for number in range(len(found))]
        assert len(found) >= 30 * sum(length >= end for end in ends[2:4])
        reasons = [problem.reason for problem in problems_among(items)]
        if suffix:
            assert reasons == ([] if length in ends else ["torn file"]), length
        else:
            # Between two pages there is nothing to tell it by.
            torn = path.read_bytes()
            is_inside = torn.rfind(b"<page>") > torn.rfind(b"</page>")
            assert reasons == ["torn file"] if is_inside else reasons in ([], ["not XML"])


def test_a_page_that_is_too_long(tmp_path: Path) -> None:
    path = write(tmp_path / "d.xml.bz2", HEAD + article(1) + page("Long", "word " * 2000) + article(2) + FOOT)
    items = items_of(source_at(path, 1000, 5000))
    assert [item[0] for item in items] == [f"{path}: Article 1", "too long", f"{path}: Article 2"]


@pytest.mark.parametrize(
    ("broken", "reason", "place"),
    [
        (article(2).replace("</title>", ""), "not XML", "d.xml, line 17"),
        (article(2).replace("more.", "<b>"), "not XML", "d.xml: Article 2"),
        (article(2).replace("more.", "&nbsp;"), "not XML", "d.xml: Article 2"),
        (article(2).replace("more.", "&#xD800;"), "not XML", "d.xml: Article 2"),
        (article(2).replace("more.", "\x01"), "not XML", "d.xml: Article 2"),
        (article(2).replace("more.", "\0"), "NUL bytes", "d.xml: Article 2"),
        (article(2).encode().replace(b"more.", b"\xff"), "not UTF-8", "d.xml: Article 2, byte "),
        ("</page>", "not XML", "d.xml, line 17"),
        ("words", "not XML", "d.xml, line 17"),
    ],
)
def test_a_broken_page_is_one_problem(broken: str | bytes, reason: str, place: str) -> None:
    data = broken if isinstance(broken, bytes) else broken.encode()
    items = read((HEAD + article(1)).encode() + data + article(3).encode() + FOOT.encode())
    assert len(items) == 3
    assert items[0] == ("d.xml: Article 1", "Article 1 is an article & more.")
    assert items[2][0] == "d.xml: Article 3"
    assert items[1][0] == reason
    assert items[1][1].startswith(place)


@pytest.mark.parametrize("text", ["plain text", "<html><body>No dump</body></html>", HEAD.strip()])
def test_what_is_no_dump(text: str) -> None:
    assert read(text) == [("not XML", "d.xml, line 1")]


def test_a_dump_without_pages(tmp_path: Path) -> None:
    path = write(tmp_path / "d.xml", "")
    assert items_of(source_at(path, 100)) == [Skipped("empty", str(path))]


MARKS = [
    "<page>",
    "</page>",
    "<title>",
    "</title>",
    "<ns>0</ns>",
    "<revision>",
    "</revision>",
    "<text>",
    "</text>",
    "x",
    "\0",
]


@given(st.lists(st.sampled_from(MARKS).map(str.encode) | st.binary(max_size=4)).map(b"".join), st.booleans())
def test_bytes_of_any_kind_give_items(data: bytes, is_first: bool) -> None:
    items: list[Item] = list(read_pages(Piece(Path("d.xml"), 1 if is_first else 7, data, is_whole=False)))
    assert len(items) >= data.count(b"</page>")
    assert all(isinstance(item, Document | Problem | Skipped) for item in items)


def test_a_page_that_no_parser_reads_is_a_problem_with_its_title() -> None:
    found = read(HEAD + page("Deep", "{{a|" * 2000 + "}}" * 2000) + article(1) + FOOT)
    assert found == [("not wikitext", "d.xml: Deep"), ("d.xml: Article 1", "Article 1 is an article & more.")]


def test_a_real_compression_of_many_streams(tmp_path: Path) -> None:
    path = tmp_path / "d.xml.bz2"
    path.write_bytes(b"".join(bz2.compress(part.encode()) for part in (HEAD, article(1), article(2), FOOT)))
    assert len(documents_among(items_of(source_at(path, 1 << 20)))) == 2
