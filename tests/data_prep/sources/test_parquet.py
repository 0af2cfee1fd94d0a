"""Documents out of Parquet files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.sources import parquet as parquet_module
from data_prep.sources.base import Document, Skipped
from data_prep.sources.parquet import ParquetFiles
from data_prep.sources.parse import parse_source
from tests.data_prep.sources.inputs import documents_among, items_of, problems_among, tears, texts_of, write


def write_table(path: Path, texts: Any, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": pa.array(range(len(texts))), "text": texts}), path, **options)
    return path


def source_at(path: Path, chunk_bytes: int = 1 << 20, field: str = "text") -> ParquetFiles:
    source = parse_source(f"parquet:{path}", field=field)
    assert isinstance(source, ParquetFiles)
    return replace(source, chunk_bytes=chunk_bytes)


@pytest.mark.parametrize("chunk_bytes", [1, 300, 5000, 1 << 20])
@pytest.mark.parametrize("group_rows", [1, 7, 64, 1000])
def test_every_row_is_read_once(tmp_path: Path, chunk_bytes: int, group_rows: int) -> None:
    texts = [f"Document {number} is here {number * 7919}." for number in range(150)]
    write_table(tmp_path / "a.parquet", pa.array(texts[:100]), row_group_size=group_rows)
    write_table(tmp_path / "b/b.parquet", pa.array(texts[100:]), row_group_size=group_rows)
    source = source_at(tmp_path, chunk_bytes)
    assert texts_of(source) == texts
    assert [document.place for document in documents_among(items_of(source))] == [
        *(f"{tmp_path}/a.parquet, row {number}" for number in range(1, 101)),
        *(f"{tmp_path}/b/b.parquet, row {number}" for number in range(1, 51)),
    ]
    num_chunks = len(list(source.chunks()))
    assert num_chunks >= 150 / group_rows
    assert num_chunks == 150 or chunk_bytes > 1


def test_ranges_go_over_many_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_module, "_MAX_BATCH_ROWS", 7)
    texts = [f"Document {number}." for number in range(100)]
    path = write_table(tmp_path / "a.parquet", pa.array(texts))
    assert texts_of(source_at(path, 300)) == texts


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_kinds_of_strings(tmp_path: Path, kind: pa.DataType) -> None:
    path = write_table(tmp_path / "a.parquet", pa.array(["one\r\n\r\ntwo", None, " ", "a\0"]).cast(kind))
    document, *skipped, problem = items_of(source_at(path))
    assert document == Document(f"{path}, row 1", "one\n\ntwo")
    assert skipped == [Skipped("empty", f"{path}, row 2"), Skipped("empty", f"{path}, row 3")]
    assert problem[:2] == ("NUL bytes", f"{path}, row 4")


def test_a_text_that_is_not_utf8_is_one_rows_problem(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"bad \xff", b"good again"])
    texts = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    path = write_table(tmp_path / "a.parquet", texts)
    assert [item[:2] for item in items_of(source_at(path))] == [
        (f"{path}, row 1", "good"),
        ("not UTF-8", f"{path}, row 2, byte 5"),
        (f"{path}, row 3", "good again"),
    ]


def test_a_row_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_module, "MAX_DOCUMENT_BYTES", 10)
    path = write_table(tmp_path / "a.parquet", pa.array(["x" * 10, "y" * 11]))
    assert [item[:2] for item in items_of(source_at(path))] == [
        (f"{path}, row 1", "x" * 10),
        ("too long", f"{path}, row 2"),
    ]


@pytest.mark.parametrize(
    ("field", "words"), [("body", "there is no 'body' among 'id', 'text'"), ("id", "'id' holds int64")]
)
def test_a_column_that_will_not_do(tmp_path: Path, field: str, words: str) -> None:
    path = write_table(tmp_path / "a.parquet", pa.array(["one"]))
    (problem,) = problems_among(items_of(source_at(path, field=field)))
    assert problem[:2] == ("no text field", str(path))
    assert words in problem.advice


def test_a_file_without_rows(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", pa.array([], pa.string()))
    assert items_of(source_at(path)) == [Skipped("empty", str(path))]


def test_torn_files_and_others(tmp_path: Path) -> None:
    """The directory of a Parquet file is at its end: without it there is nothing to read by."""
    whole = write_table(tmp_path / "whole", pa.array([f"Document {number}." for number in range(100)])).read_bytes()
    path = tmp_path / "a.parquet"
    for length in tears(len(whole)):
        path.write_bytes(whole[:length])
        (problem,) = items_of(source_at(path))
        assert problem[:2] == ("torn file" if length >= 4 else "not Parquet", str(path)), length
    write(path, "plain text, and enough of it")
    (problem,) = items_of(source_at(path))
    assert problem[0] == "not Parquet"


def test_damage_inside_is_a_problem(tmp_path: Path) -> None:
    texts = pa.array([f"Document {number}." for number in range(1000)])
    path = write_table(tmp_path / "a.parquet", texts, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    num_problems = 0
    for begin in range(4, len(data) - 8, len(data) // 40):
        damaged = data.copy()
        damaged[begin : begin + 8] = bytes(8)
        path.write_bytes(damaged)
        num_problems += bool(problems_among(items_of(source_at(path))))
    assert num_problems > 20


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", pa.array(["one"]))
    source = source_at(path)
    (chunk,) = source.chunks()
    path.unlink()
    assert [item[0] for item in chunk.items()] == ["unreadable"]
    assert [item[:2] for item in items_of(source)] == [("unreadable", str(path))]
