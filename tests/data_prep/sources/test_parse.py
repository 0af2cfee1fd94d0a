"""Which source a --source names."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.sources.gutenberg import Books
from data_prep.sources.installed import InstalledDocs
from data_prep.sources.jsonl import JsonLines
from data_prep.sources.parquet import ParquetFiles
from data_prep.sources.parse import parse_source
from data_prep.sources.text import TextFiles
from data_prep.sources.wikipedia import WikipediaDump
from dsparse.errors import UserError
from tests.data_prep.sources.inputs import write


@pytest.mark.parametrize(
    ("kind", "name", "source"),
    [
        ("text", "a.txt", TextFiles),
        ("gutenberg", "a.txt.gz", Books),
        ("jsonl", "a.jsonl.zst", JsonLines),
        ("parquet", "a.parquet", ParquetFiles),
        ("wikipedia-xml", "a.xml.bz2", WikipediaDump),
    ],
)
def test_files_and_folders(tmp_path: Path, kind: str, name: str, source: type) -> None:
    path = write(tmp_path / name, "12345678")
    for place in (path, tmp_path):
        parsed = parse_source(f"{kind}:{place}")
        assert isinstance(parsed, source)
        assert parsed.label == f"{kind}:{place}"
        assert parsed.files() == [path]
        assert parsed.num_bytes() == path.stat().st_size
        assert not parsed.is_repetitive


def test_installed_docs() -> None:
    source = parse_source("installed-docs")
    assert isinstance(source, InstalledDocs)
    assert (source.label, source.files(), source.is_repetitive) == ("installed-docs", [], True)
    assert source.num_bytes() > 1_000_000


@pytest.mark.parametrize("spec", ["wikipedia", "text:", "jsonl:", "text", "installed-docs:x", "", "datasets:", ":x"])
def test_unknown_sources_are_refused(spec: str) -> None:
    with pytest.raises(
        UserError, match=r"^Expected --source installed-docs, text:PATH, .* or wikipedia-xml:FILE\. Got"
    ):
        parse_source(spec)


@pytest.mark.parametrize("kind", ["text", "gutenberg", "jsonl", "parquet", "wikipedia-xml"])
def test_what_is_not_there_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match="Got nothing at"):
        parse_source(f"{kind}:{tmp_path / 'nowhere'}")
    write(tmp_path / "a.other", "text")
    with pytest.raises(UserError, match="Got none in"):
        parse_source(f"{kind}:{tmp_path}")
