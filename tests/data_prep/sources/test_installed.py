"""Documents out of the docstrings of modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.sources.base import Document, Skipped
from data_prep.sources.docstrings import python_files
from data_prep.sources.installed import InstalledDocs
from tests.data_prep.sources.inputs import items_of, problems_among, write

FIRST = '''
"""This is what the module says of itself. X = {1}

>>> x
1
"""
def f():
    """And this is what its function does."""
'''


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
def test_a_document_for_each_module(tmp_path: Path, chunk_bytes: int) -> None:
    write(tmp_path / "a.py", FIRST)
    write(tmp_path / "b.py", '"""Too short."""')
    write(tmp_path / "c.py", '"""This module must not be run at all."""\nraise SystemExit("imported")\n')
    write(tmp_path / "d.py", '"""This has half of a pair\\ud800 and a \\0 in the middle."""')
    source = InstalledDocs.of("installed-docs", python_files(tmp_path))
    source = InstalledDocs(source.label, source.modules, chunk_bytes)
    assert items_of(source) == [
        Document(f"{tmp_path}/a.py", "This is what the module says of itself.\n\nAnd this is what its function does."),
        Skipped("empty", f"{tmp_path}/b.py"),
        Document(f"{tmp_path}/c.py", "This module must not be run at all."),
        Document(f"{tmp_path}/d.py", "This has half of a pair and a in the middle."),
    ]
    assert len(list(source.chunks())) == (4 if chunk_bytes == 1 else 1)


def test_a_module_that_is_gone_is_a_problem(tmp_path: Path) -> None:
    path = write(tmp_path / "a.py", FIRST)
    source = InstalledDocs.of("installed-docs", iter([path]))
    path.unlink()
    assert [problem[:2] for problem in problems_among(items_of(source))] == [("unreadable", str(path))]
