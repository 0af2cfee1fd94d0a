"""Where files are cut: everything is read once, whatever the length of a chunk, and little is held at a time."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources.base import EMPTY, TOO_LONG, Chunk, Document, Item, Problem
from data_prep.sources.cutting import Cutting, FileChunk, Piece, _Cutter, chunks_of
from data_prep.sources.files import InputFile, Inputs
from tests.data_prep.sources.inputs import SUFFIXES, write

LINE_END = re.compile(rb"\n")
MIB = 1 << 20


def inputs(*paths: Path) -> Inputs:
    return Inputs(tuple(InputFile(path, path.stat().st_size) for path in paths))


def read_as_it_is(piece: Piece) -> Iterator[Item]:
    yield Document(piece.place, piece.data.decode())


def pieces_of(chunks: Iterator[Chunk]) -> list[object]:
    return [piece for chunk in chunks if isinstance(chunk, FileChunk) for piece in chunk.pieces]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("chunk_bytes", [1, 2, 100, 1024, 5000, 1 << 18, 1 << 22])
def test_everything_is_read_once(tmp_path: Path, suffix: str, chunk_bytes: int) -> None:
    text = "".join(f"line {number} {'x' * (number % 90)}\n" for number in range(2000)) + "the last has no end"
    path = write(tmp_path / f"a{suffix}", text)
    chunks = list(chunks_of(inputs(path), read_as_it_is, Cutting(LINE_END, chunk_bytes=chunk_bytes)))
    pieces = pieces_of(iter(chunks))
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert b"".join(piece.data for piece in pieces) == text.encode()  # type: ignore[attr-defined]
    assert sum(chunk.num_bytes for chunk in chunks) == path.stat().st_size
    line = 1
    for piece in pieces:
        assert isinstance(piece, Piece)
        assert piece.first_line == line
        assert piece.is_whole == (len(pieces) == 1)
        assert chunk_bytes <= len(piece.data) <= chunk_bytes + 120 or piece is pieces[-1]
        line += piece.data.count(b"\n")


@given(
    text=st.text("ab\n", max_size=60),
    chunk_bytes=st.integers(1, 12),
    more=st.integers(0, 8),
    block_bytes=st.integers(1, 20),
)
def test_lines_are_kept_or_reported(text: str, chunk_bytes: int, more: int, block_bytes: int) -> None:
    """Against the plain way: split into lines, and leave out the long ones."""
    max_bytes = chunk_bytes + more
    cutter = _Cutter(Path("a"), Cutting(LINE_END, chunk_bytes=chunk_bytes, max_bytes=max_bytes))
    data = text.encode()
    found: list[object] = []
    for begin in range(0, len(data), block_bytes):
        found += cutter.feed(data[begin : begin + block_bytes])
    found += cutter.finish()
    lines = re.findall(rb"[^\n]*\n|[^\n]+$", data)
    kept = [(number, line) for number, line in enumerate(lines, start=1) if len(line) <= max_bytes]
    pieces = [piece for piece in found if isinstance(piece, Piece)]
    assert b"".join(piece.data for piece in pieces) == b"".join(line for _, line in kept)
    assert {piece.first_line for piece in pieces} <= {number for number, _ in kept}
    problems = [problem for problem in found if isinstance(problem, Problem)]
    assert [problem.place for problem in problems] == [
        f"a, line {number}" for number, line in enumerate(lines, start=1) if len(line) > max_bytes
    ]
    assert all(problem.reason == TOO_LONG for problem in problems)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_line_without_end_is_not_held(tmp_path: Path, suffix: str) -> None:
    long = 96 * MIB
    path = write(tmp_path / f"a{suffix}", b"first\nsecond\n" + b"x" * long + b"\nfourth\n")
    tracemalloc.start()
    pieces = pieces_of(chunks_of(inputs(path), read_as_it_is, Cutting(LINE_END)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * MIB
    before, problem, behind = pieces
    assert isinstance(before, Piece) and isinstance(problem, Problem) and isinstance(behind, Piece)
    assert (before.data, behind.data, behind.first_line) == (b"first\nsecond\n", b"fourth\n", 4)
    assert (problem.reason, problem.place) == (TOO_LONG, f"{path}, line 3")
    assert f"{long + 1:,} bytes" in problem.advice


def test_small_files_share_a_chunk(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number:03}", "x" * 2000) for number in range(100)]
    chunks = list(chunks_of(inputs(*paths), read_as_it_is, Cutting(LINE_END, chunk_bytes=30_000)))
    assert 8 <= len(chunks) <= 12
    assert sum(chunk.num_bytes for chunk in chunks) == 200_000
    assert [item.place for chunk in chunks for item in chunk.items()] == [str(path) for path in paths]


def test_empty_files_are_counted_and_do_not_pile_up(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "")
    chunks = list(chunks_of(inputs(*[path] * 100), read_as_it_is, Cutting(LINE_END, chunk_bytes=20_000)))
    assert len(chunks) > 3
    assert [item for chunk in chunks for item in chunk.items()] == [(EMPTY, str(path))] * 100


def test_a_file_that_is_gone_is_a_problem(tmp_path: Path) -> None:
    there, gone = write(tmp_path / "a", "text"), write(tmp_path / "b", "text")
    found = inputs(gone, there)
    gone.unlink()
    chunks = list(chunks_of(found, read_as_it_is, Cutting(LINE_END)))
    assert sum(chunk.num_bytes for chunk in chunks) == 8
    problem, document = (item for chunk in chunks for item in chunk.items())
    assert isinstance(problem, Problem) and problem[:2] == ("unreadable", str(gone))
    assert document == Document(str(there), "text")


def test_a_file_that_is_kept_whole(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, text) for name, text in (("a", "1\n" * 50), ("b", "1\n" * 51))]
    cutting = Cutting(LINE_END, chunk_bytes=10, max_bytes=100, keeps_files_whole=True)
    whole, problem = pieces_of(chunks_of(inputs(*paths), read_as_it_is, cutting))
    assert isinstance(whole, Piece) and whole.is_whole and len(whole.data) == 100
    assert isinstance(problem, Problem) and problem.reason == TOO_LONG
