"""Documents out of files of text."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources.base import Document, Skipped
from data_prep.sources.cutting import Piece
from data_prep.sources.parse import parse_source
from data_prep.sources.text import TextFiles, paragraphs_of, read_text
from tests.data_prep.sources.inputs import (
    SUFFIXES,
    documents_among,
    items_of,
    problems_among,
    tears,
    texts_of,
    write,
)


def source_at(path: Path, chunk_bytes: int | None = None, max_bytes: int | None = None) -> TextFiles:
    source = parse_source(f"text:{path}")
    assert isinstance(source, TextFiles)
    if chunk_bytes is None:
        return source
    cutting = replace(source.cutting, chunk_bytes=chunk_bytes, max_bytes=max_bytes or source.cutting.max_bytes)
    return replace(source, cutting=cutting)


def read(data: bytes, name: str = "a.txt", first_line: int = 1) -> list[tuple[str, ...]]:
    return [tuple(item) for item in read_text(Piece(Path(name), first_line, data, is_whole=first_line == 1))]


def test_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "b/z.txt.gz", "Third file.")
    (tmp_path / "a.TXT").write_text("First file. It goes\non.\r\n \r\nNew paragraph", encoding="utf-8-sig")
    write(tmp_path / "b.md", "# Title\n\nThis is a file of markdown. X = {1}\n\n```\ncode = 1\n```\n")
    write(tmp_path / "c.text", " \n")
    source = source_at(tmp_path)
    assert items_of(source) == [
        Document(f"{tmp_path}/a.TXT", "First file. It goes\non.\n\nNew paragraph"),
        Document(f"{tmp_path}/b/z.txt.gz", "Third file."),
        Document(f"{tmp_path}/b.md", "This is a file of markdown."),
        Skipped("empty", f"{tmp_path}/c.text"),
    ]
    assert source.files() == [tmp_path / name for name in ("a.TXT", "b/z.txt.gz", "b.md", "c.text")]
    assert (source.label, source.is_repetitive) == (f"text:{tmp_path}", False)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("chunk_bytes", [1, 60, 999, 5000])
def test_a_long_file_is_cut_between_paragraphs(tmp_path: Path, suffix: str, chunk_bytes: int) -> None:
    paragraphs = [f"Paragraph {number} of it.\nIt goes on." for number in range(80)]
    path = write(tmp_path / f"a.txt{suffix}", "\n\n".join(paragraphs) + "\n")
    documents = documents_among(items_of(source_at(path, chunk_bytes)))
    assert "\n\n".join(document.text for document in documents) == "\n\n".join(paragraphs)
    places = [document.place for document in documents]
    if chunk_bytes == 5000:
        assert places == [str(path)]
    else:
        lines = [3 * int(re.findall(r"\d+", document.text)[0]) + 1 for document in documents]
        found = [int(re.fullmatch(rf"{re.escape(str(path))}, line (\d+)", place)[1]) for place in places]  # type: ignore[index]
        assert found == lines


def test_a_paragraph_that_is_too_long_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "before\n\n" + "long line\n" * 20 + "\nbehind\n")
    items = items_of(source_at(path, 50, 100))
    assert [document.text for document in documents_among(items)] == ["before", "behind"]
    assert [problem[:2] for problem in problems_among(items)] == [("too long", f"{path}, line 3")]


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_torn_file_gives_its_whole_paragraphs_and_one_problem(tmp_path: Path, suffix: str) -> None:
    paragraphs = [f"Paragraph {number} of it ends here {hash(str(number))}." for number in range(300)]
    whole = write(tmp_path / f"whole.txt{suffix}", "\n\n".join(paragraphs)).read_bytes()
    path = tmp_path / f"a.txt{suffix}"
    num_found = 0
    for length in tears(len(whole)):
        path.write_bytes(whole[:length])
        items = items_of(source_at(path, 500))
        assert [problem.reason for problem in problems_among(items)] == ["torn file"], length
        found = [text for document in documents_among(items) for text in document.text.split("\n\n")]
        assert found == paragraphs[: len(found)]
        num_found = max(num_found, len(found))
    # bz2 and zstd give a block at a time, and this is less than one.
    assert num_found > 100 or suffix != ".gz"


@pytest.mark.parametrize(
    ("data", "reason", "place"),
    [
        (b"Good line.\nBad \xff line.\n", "not UTF-8", "a.txt, line 2, byte 5 (0xff)"),
        (b"\xef\xbb\xbfGood\n\xffbad", "not UTF-8", "a.txt, line 2, byte 1 (0xff)"),
        (b"\xef\xbb\xbf\xffbad", "not UTF-8", "a.txt, line 1, byte 4 (0xff)"),
        (b"cut off \xc3", "not UTF-8", "a.txt, line 1, byte 9 (0xc3)"),
        ("UTF-16".encode("utf-16"), "NUL bytes", "a.txt, line 1, byte 4"),
        (b"a\nb\0", "NUL bytes", "a.txt, line 2, byte 2"),
    ],
)
def test_what_is_not_text_is_placed(data: bytes, reason: str, place: str) -> None:
    assert [item[:2] for item in read(data)] == [(reason, place)]


def test_places_in_a_later_stretch() -> None:
    assert read(b"one\ntwo \xff", first_line=101)[0][1] == "a.txt, line 102, byte 5 (0xff)"
    assert read(b"one", first_line=101) == [("a.txt, line 101", "one")]
    # Blank lines at the end of a long file are no document that was left out.
    assert read(b"\n\n", first_line=101) == []


@given(st.binary(max_size=300), st.sampled_from(["a.txt", "a.md", "a.rst.gz"]))
def test_bytes_of_any_kind_give_items(data: bytes, name: str) -> None:
    (item,) = read(data, name)
    if len(item) == 2 and item[0] != "empty":
        assert item[1] == item[1].strip() != ""
        item[1].encode()
        assert "\0" not in item[1] and "\r" not in item[1]


@given(st.text("ab \t\r\n"))
def test_paragraphs_are_parted_by_one_empty_line(text: str) -> None:
    paragraphs = paragraphs_of(text).split("\n\n")
    assert "".join(paragraphs_of(text).split()) == "".join(text.split())
    assert all(line.strip() for paragraph in paragraphs for line in paragraph.split("\n")) or paragraphs == [""]


def test_a_file_that_grows_counts_as_it_was(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one\n")
    source = source_at(path)
    path.write_text("one\n\ntwo\n")
    assert texts_of(source) == ["one\n\ntwo"]
