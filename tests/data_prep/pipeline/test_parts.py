"""Part files come back as they were written; a damaged one is named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.pipeline.parts import MAX_PROBLEMS, Report, part_path, part_paths, read_part, read_report, write_part
from data_prep.sources.base import Problem
from dsparse.errors import UserError


def report() -> Report:
    made = Report(source="text:a", is_repetitive=True, left_out=Counter({"empty": 2}))
    made.add_problem(Problem("not UTF-8", "a.txt, line 3", "convert it"))
    made.count(["één", "two"])
    return made


def test_round_trip(tmp_path: Path) -> None:
    path = part_path(tmp_path, 7)
    columns = {"place": ["a", "b"], "text": ["één", "two\n\nthree"], "ids": pa.array([b"\0\1", b""], pa.large_binary())}
    write_part(path, columns, report())
    part = read_part(path)
    assert {name: part.values(name) for name in columns} == {**columns, "ids": [b"\0\1", b""]}
    assert part.report == report() == read_report(path)
    assert part.report.num_bytes == 8 and part.report.left_out == {"empty": 2, "not UTF-8": 1}
    assert part_paths(tmp_path) == [path] and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("packed", [True, False])
def test_no_documents(tmp_path: Path, packed: bool) -> None:
    write_part(part_path(tmp_path, 0), {"place": [], "text": []}, Report(source="a"), packed=packed)
    assert read_part(part_path(tmp_path, 0)).values() == []


def test_the_same_columns_are_the_same_bytes(tmp_path: Path) -> None:
    for number in range(2):
        write_part(part_path(tmp_path, number), {"text": ["x" * 1000] * 50}, report())
    assert part_path(tmp_path, 0).read_bytes() == part_path(tmp_path, 1).read_bytes()


def test_other_readers_open_it(tmp_path: Path) -> None:
    write_part(part_path(tmp_path, 0), {"text": ["a", "b"]}, report())
    assert pq.read_table(part_path(tmp_path, 0)).column("text").to_pylist() == ["a", "b"]


def test_problems_beyond_the_limit_are_counted() -> None:
    made = Report(source="a")
    for number in range(MAX_PROBLEMS + 5):
        made.add_problem(Problem("torn file", str(number), ""))
    assert made.left_out["torn file"] == MAX_PROBLEMS + 5 and len(made.problems) == MAX_PROBLEMS


def test_damage_is_named_wherever_it_is(tmp_path: Path) -> None:
    path = part_path(tmp_path, 0)
    write_part(path, {"text": [f"text number {n} " * 20 for n in range(200)]}, report())
    whole = path.read_bytes()
    num_refused = 0
    for place in range(0, len(whole), max(len(whole) // 60, 1)):
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]):
            path.write_bytes(damaged)
            try:
                read_part(path)
            except UserError as error:
                num_refused += 1
                assert str(path) in str(error) and "damaged" in str(error)
    assert num_refused >= 60


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        (tmp_path / ".000000.parquet.partial").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space"):
        write_part(part_path(tmp_path, 0), {"text": ["a"]}, report())
    assert list(tmp_path.iterdir()) == []
