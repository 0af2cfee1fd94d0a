"""Part files: a few megabytes of a stage's output, in Parquet, with a report of what went in and what was left out.

Any Parquet reader opens them: `pandas.read_parquet("build/store.work/clean/000000.parquet")` shows the documents.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.sources.base import Problem
from dsparse.errors import UserError
from dsparse.files import flush_to_disk

_REPORT = b"dsparse.report"
SUFFIX = ".parquet"
MAX_PROBLEMS = 1000
"""Problems of one part that are kept with their places; all are counted."""


@dataclass(kw_only=True)
class Report:
    """What one part holds, and what was left out on the way to it."""

    source: str
    """Label of the one source that its documents come from."""
    is_repetitive: bool = False
    """Whether repeated paragraphs are dropped, not only whole documents."""
    num_documents: int = 0
    num_sentences: int = 0
    num_bytes: int = 0
    """UTF-8 of the text."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Documents by reason."""
    problems: list[Problem] = field(default_factory=list)
    """Input that could not be read, the first MAX_PROBLEMS in order; all are counted in `left_out`."""

    def add_problem(self, problem: Problem) -> None:
        """Counts bad input and remembers where it is."""
        self.left_out[problem.reason] += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)

    def count(self, texts: Sequence[str]) -> None:
        """Takes the number and the length of these documents."""
        self.num_documents = len(texts)
        self.num_bytes = sum(len(text) if text.isascii() else len(text.encode()) for text in texts)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(vars(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Report:
        """What `to_json` wrote."""
        content = json.loads(text)
        content["left_out"] = Counter(content["left_out"])
        content["problems"] = [Problem(*problem) for problem in content["problems"]]
        return cls(**content)


@dataclass(frozen=True, eq=False)
class Part:
    """A part file in memory."""

    path: Path
    table: pa.Table
    report: Report

    def values(self, column: str = "text") -> list[Any]:
        """A column as Python's own values."""
        return self.table.column(column).to_pylist()


def part_path(folder: Path, number: int) -> Path:
    """Where a part lies; names sort as numbers do up to a million parts, some 8 TB of text."""
    return folder / f"{number:06d}{SUFFIX}"


def part_paths(folder: Path) -> list[Path]:
    """All parts of a stage in order."""
    return sorted(folder.glob(f"[0-9]*{SUFFIX}"))


def write_part(
    path: Path, columns: Mapping[str, Sequence[Any] | pa.Array], report: Report, *, packed: bool = True
) -> None:
    """Writes a part so that it is there whole or not at all, also after a loss of power.

    Args:
        path: from `part_path`.
        columns: of equal length; lists of `str` become large strings.
        report: kept in the file.
        packed: compress it; token ids are not worth it.

    Raises:
        OSError: a full disk, no permission.
    """
    table = pa.table({name: _as_array(values) for name, values in columns.items()})
    table = table.replace_schema_metadata({_REPORT: report.to_json().encode()})
    aside = path.with_name(f".{path.name}.partial")
    try:
        # A stream, not a path: Arrow takes no name that the locale cannot spell.
        with aside.open("wb") as stream:
            pq.write_table(
                table,
                stream,
                compression="zstd" if packed else "none",
                compression_level=1 if packed else None,
                use_dictionary=False,
                write_statistics=False,
                write_page_checksum=True,
            )
        flush_to_disk(aside)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def read_part(path: Path, columns: list[str] | None = None, *, sha256: str | None = None) -> Part:
    """Reads a part, or some of its columns.

    Args:
        path: from `part_path`.
        columns: names; None reads all.
        sha256: what the file must have; None trusts its own checksums, which leave out its end.

    Raises:
        UserError: the file is damaged.
    """
    with _naming(path):
        if sha256 is not None:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != sha256:
                raise ValueError("another content")
            return _part_of(path, pa.BufferReader(data), columns)
        with path.open("rb") as stream:
            return _part_of(path, stream, columns)


def _part_of(path: Path, stream: Any, columns: list[str] | None) -> Part:
    table = pq.read_table(stream, columns=columns, use_threads=False, page_checksum_verification=True)
    return Part(path, table, Report.from_json((table.schema.metadata or {})[_REPORT]))


def read_report(path: Path) -> Report:
    """The report of a part, without its content.

    Raises:
        UserError: the file is damaged.
    """
    with _naming(path), path.open("rb") as stream, pq.ParquetFile(stream) as file:
        return Report.from_json((file.schema_arrow.metadata or {})[_REPORT])


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns what a damaged file leads to into a UserError that names it."""
    try:
        yield
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise _damaged(path, error) from None
    except OSError as error:
        # Arrow raises plain OSErrors for what it cannot unpack; those of the system have a number.
        if error.errno is not None:
            raise
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"Expected {path} as an earlier stage wrote it. Got {str(error) or type(error).__name__}: it is damaged; "
        f"remove the folder {path.parent} and run the same command again."
    )


def _as_array(values: Sequence[Any] | pa.Array) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    if not len(values) or isinstance(values[0], str):
        return pa.array(values, pa.large_string())
    if isinstance(values[0], bytes):
        return pa.array(values, pa.large_binary())
    return pa.array(values)
