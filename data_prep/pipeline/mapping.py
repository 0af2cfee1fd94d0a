"""A stage that makes one part of each part, in parallel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.pipeline.parts import Part, Report, read_part, read_report, write_part
from data_prep.pipeline.progress import progress
from data_prep.pipeline.workers import in_order

Columns = Mapping[str, Any]
Function = Callable[[Part, Any], tuple[Columns, Report]]


@dataclass(frozen=True)
class _Task:
    function: Function
    source: Path
    sha256: str
    target: Path
    options: Any
    packed: bool


def map_parts(
    function: Function, parts: Mapping[Path, str], target: Path, *, options: Any, num_workers: int, packed: bool = True
) -> Iterator[Report]:
    """Applies a function to every part; the parts that are there already are not made again.

    Args:
        function: of a module; from a part and the options to columns and a report.
        parts: files to read, with the hash that each must have.
        target: folder for files of the same names.
        options: handed to the function; picklable.
        num_workers: processes.
        packed: compress what is written.

    Yields:
        The report of each part, in order.
    """
    tasks = [_Task(function, path, sha256, target / path.name, options, packed) for path, sha256 in parts.items()]
    sizes = [path.stat().st_size for path in parts]
    with progress(target.name, sum(sizes)) as advance:
        for num_bytes, report in zip(sizes, in_order(_run, tasks, num_workers=num_workers), strict=True):
            advance(num_bytes)
            yield report


def _run(task: _Task) -> Report:
    if task.target.exists():
        return read_report(task.target)
    columns, report = task.function(read_part(task.source, sha256=task.sha256), task.options)
    write_part(task.target, columns, report, packed=task.packed)
    return report
