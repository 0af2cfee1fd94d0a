"""Documents out of JSON lines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources.base import Document, Problem, Skipped
from data_prep.sources.cutting import Piece
from data_prep.sources.jsonl import JsonLines, read_lines
from data_prep.sources.parse import parse_source
from tests.data_prep.sources.inputs import (
    SUFFIXES,
    compressed,
    documents_among,
    items_of,
    problems_among,
    tears,
    texts_of,
    write,
)

MIB = 1 << 20


def source_at(path: Path, chunk_bytes: int, field: str = "text") -> JsonLines:
    source = parse_source(f"jsonl:{path}", field=field)
    assert isinstance(source, JsonLines)
    return replace(source, cutting=replace(source.cutting, chunk_bytes=chunk_bytes))


def read(data: bytes) -> list[tuple[str, ...]]:
    return [tuple(item) for item in read_lines(Piece(Path("a.jsonl"), 1, data, is_whole=True), field="text")]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("chunk_bytes", [1, 100, 1000, MIB])
def test_lines_of_a_folder(tmp_path: Path, suffix: str, chunk_bytes: int) -> None:
    texts = [f"Document {number} is here.\n\nIt has ä." for number in range(100)]
    lines = [json.dumps({"body": text, "n": 1}) + "\n" for text in texts]
    write(tmp_path / f"a.jsonl{suffix}", "\n".join(lines[:60]))
    write(tmp_path / f"b/b.jsonl{suffix}", "\r\n".join(lines[60:]).rstrip())
    source = source_at(tmp_path, chunk_bytes, field="body")
    assert texts_of(source) == texts
    assert [document.place for document in documents_among(items_of(source))] == [
        *(f"{tmp_path}/a.jsonl{suffix}, line {2 * number + 1}" for number in range(60)),
        *(f"{tmp_path}/b/b.jsonl{suffix}, line {2 * number + 1}" for number in range(40)),
    ]
    assert source.files() == [tmp_path / f"a.jsonl{suffix}", tmp_path / f"b/b.jsonl{suffix}"]


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_torn_file_gives_its_whole_lines_and_one_problem(tmp_path: Path, suffix: str) -> None:
    texts = [f"Document {number} is here {number * 7919 % 1000}." for number in range(400)]
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    streams = [compressed("".join(half).encode(), suffix) for half in (lines[:200], lines[200:])]
    path = tmp_path / f"a.jsonl{suffix}"
    for length in tears(sum(map(len, streams))):
        if length == len(streams[0]):
            continue
        path.write_bytes(b"".join(streams)[:length])
        items = items_of(source_at(path, 500))
        assert [problem.reason for problem in problems_among(items)] == ["torn file"], length
        found = [document.text for document in documents_among(items)]
        assert found == texts[: len(found)]
        assert len(found) >= (200 if length > len(streams[0]) else 0)


def test_a_line_that_is_too_long_is_read_over(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}) for text in ("one", "x" * 64 * MIB, "three")]
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    assert [item[:2] for item in items_of(source_at(path, MIB))] == [
        (f"{path}, line 1", "one"),
        ("too long", f"{path}, line 2"),
        (f"{path}, line 3", "three"),
    ]


@pytest.mark.parametrize(
    ("line", "reason", "advice"),
    [
        (b'{"text": "a"', "not JSON", "Expecting ',' delimiter"),
        (b"[" * 100_000, "not JSON", "recursion"),
        (b'{"text": ' + b"9" * 5000 + b"}", "not JSON", "digits"),
        (b'["text"]', "no text field", "each line is an object with a text 'text'"),
        (b"null", "no text field", "each line is an object"),
        (b'{"title": "a", "b\\u00e4": 1}', "no text field", "another of its fields if it is not: 'title', 'b\\xe4'"),
        (b"{}", "no text field", "it has none"),
        (b'{"text": 5}', "no text field", "'text' is a text, not int"),
        (b'{"text": null}', "no text field", "not NoneType"),
        (b'{"text": "\xff"}', "not UTF-8", "iconv"),
        (b'{"text": "a\0"}', "NUL bytes", "not text"),
        (b'{"text": "a\\u0000"}', "NUL bytes", "not text"),
        (b'{"text": "a\\ud800"}', "lone surrogate", "UTF-8"),
    ],
)
def test_a_malformed_line_is_named(line: bytes, reason: str, advice: str) -> None:
    before, problem, behind = read(b'{"text": "a"}\n\n' + line + b'\n{"text": "b"}')
    assert (before, behind) == (("a.jsonl, line 1", "a"), ("a.jsonl, line 4", "b"))
    assert problem[0] == reason
    assert problem[1].startswith("a.jsonl, line 3")
    assert advice in problem[2]


def test_texts() -> None:
    assert read(b'\xef\xbb\xbf{"text": "first"}\n{"text": " \\n"}\n{"text": "\\ud83d\\ude00\\r\\n \\r\\nx"}\n') == [
        ("a.jsonl, line 1", "first"),
        ("empty", "a.jsonl, line 2"),
        ("a.jsonl, line 3", "😀\n\nx"),
    ]


def test_an_empty_file_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "")
    assert items_of(source_at(path, MIB)) == [Skipped("empty", str(path))]


VALUES = st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner))


@given(st.lists(st.binary() | st.builds(lambda value: json.dumps({"text": value}).encode(), VALUES)))
def test_bytes_of_any_kind_give_an_item_for_each_line(lines: list[bytes]) -> None:
    data = b"\n".join(lines)
    items = list(read_lines(Piece(Path("a.jsonl"), 1, data, is_whole=True), field="text"))
    assert len(items) == sum(bool(line.strip()) for line in data.split(b"\n"))
    for item in items:
        assert isinstance(item, Document | Problem | Skipped)
        item[1].encode()
