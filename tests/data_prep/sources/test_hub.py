"""Rows of data sets, by way of `datasets`; without a network, from local folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from data_prep.sources import hub as hub_module
from data_prep.sources.base import Document, Skipped
from data_prep.sources.hub import HubDataset
from data_prep.sources.parse import parse_source
from dsparse.errors import UserError
from tests.data_prep.sources.inputs import documents_among, items_of, problems_among, texts_of, write

TEXTS = [f"Document {number} is here.\n\nIt goes on." for number in range(50)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("chunk_bytes", [1, 1000, 1 << 20])
def test_a_local_folder(tmp_path: Path, chunk_bytes: int) -> None:
    path = write_rows(tmp_path / "data/train.jsonl", [{"body": text, "n": 1} for text in TEXTS])
    write_rows(tmp_path / "data/.hidden/train.jsonl", [{"body": "hidden", "n": 1}])
    source = parse_source(f"datasets:{tmp_path}/data", field="body")
    assert isinstance(source, HubDataset)
    source = replace(source, chunk_bytes=chunk_bytes)
    assert texts_of(source) == TEXTS
    assert documents_among(items_of(source))[2].place == f"datasets:{tmp_path}/data, row 3"
    assert source.files() == [path]
    assert (source.num_bytes(), source.is_repetitive) == (0, False)
    assert len(list(source.chunks())) == {1: 50, 1000: 13, 1 << 20: 1}[chunk_bytes]


def test_splits(tmp_path: Path) -> None:
    write_rows(tmp_path / "data/train.jsonl", [{"text": "train"}])
    write_rows(tmp_path / "data/test.jsonl", [{"text": "test"}])
    assert texts_of(parse_source(f"datasets:{tmp_path}/data")) == ["train"]
    assert texts_of(parse_source(f"datasets:{tmp_path}/data@test")) == ["test"]
    with pytest.raises(
        UserError, match=r"^Expected a data set that `datasets` loads in .*@dev\. Got .*; check the name"
    ):
        parse_source(f"datasets:{tmp_path}/data@dev")


def test_rows_that_are_no_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "MAX_DOCUMENT_BYTES", 12)
    texts = ["one", None, " ", "a\0", "ä" * 6, "ä" * 7]
    write_rows(tmp_path / "data/train.jsonl", [{"text": text} for text in texts])
    label = f"datasets:{tmp_path}/data"
    items = items_of(parse_source(label))
    assert [item[:2] for item in items] == [
        Document(f"{label}, row 1", "one"),
        Skipped("empty", f"{label}, row 2"),
        Skipped("empty", f"{label}, row 3"),
        ("NUL bytes", f"{label}, row 4"),
        Document(f"{label}, row 5", "ä" * 6),
        ("too long", f"{label}, row 6"),
    ]


def test_a_column_of_numbers(tmp_path: Path) -> None:
    write_rows(tmp_path / "data/train.jsonl", [{"text": 1}, {"text": 2}])
    problems = problems_among(items_of(parse_source(f"datasets:{tmp_path}/data")))
    assert [problem.reason for problem in problems] == ["no text field"] * 2


def test_an_error_in_the_middle_is_one_problem(tmp_path: Path) -> None:
    def rows() -> Any:
        yield from ({"text": text} for text in TEXTS[:3])
        raise ConnectionError("the network\nwent away")

    source = HubDataset("datasets:x", "text", None, rows(), chunk_bytes=1)
    items = items_of(source)
    assert [document.text for document in documents_among(items)] == TEXTS[:3]
    (problem,) = problems_among(items)
    assert problem[:2] == ("unreadable", "datasets:x, row 4")
    assert "the network went away" in problem.advice


def test_what_cannot_be_loaded_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object, **options: object) -> None:
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(
        UserError, match=r"in --source datasets:no/such\. Got ConnectionError: Couldn't reach the hub; "
    ):
        parse_source("datasets:no/such")


@pytest.mark.parametrize(
    ("place", "asked"),
    [("a/b", ("a/b", None, "train")), ("a/b:c", ("a/b", "c", "train")), ("a:c.d@e", ("a", "c.d", "e"))],
)
def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, asked: tuple[str | None, ...]) -> None:
    write_rows(tmp_path / "data/train.jsonl", [{"text": "one", "n": 1}])
    really_load = datasets.load_dataset
    calls = []

    def load(name: str, config: str | None, *, split: str, streaming: bool) -> Any:
        assert streaming
        calls.append((name, config, split))
        return really_load(str(tmp_path / "data"), split="train", streaming=True)

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = parse_source(f"datasets:{place}")
    assert calls == [asked]
    assert source.files() == []
    assert texts_of(source) == ["one"]
    with pytest.raises(UserError, match=r"Got text, n; name the column of the text"):
        parse_source(f"datasets:{place}", field="body")


@pytest.mark.parametrize("place", ["a:b:c", "a@b@c", "a@b:c", "a:", ":b"])
def test_malformed_names(place: str) -> None:
    with pytest.raises(UserError, match=r"^Expected --source datasets:NAME\[:CONFIG\]\[@SPLIT\]\. Got "):
        parse_source(f"datasets:{place}")
