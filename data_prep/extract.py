"""Stage 1: reads the sources and writes their documents, without markup, as part files.

    python data_prep/extract.py --recipe recipes/wiki-books.yaml

A source is cut into stretches of a few megabytes, one after the other in this process; workers parse them. When it is
run again after an interruption, the stretches that are done are cut and thrown away.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # A script's own folder is on the path, not the checkout; and a module in it has the name of one of Python's own.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.pipeline.command import run_stage_as_command
from data_prep.pipeline.parts import Report, part_path, part_paths, read_part, read_report, write_part
from data_prep.pipeline.progress import Advance, progress
from data_prep.pipeline.stage import Context
from data_prep.pipeline.tally import Tally
from data_prep.pipeline.workers import in_order
from data_prep.recipe import Recipe
from data_prep.sources.base import UNREADABLE, Chunk, Document, Problem, Source

_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Extract:
    """From sources to documents."""

    name: str = "extract"
    reads: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ("wikitextparser", "sentencex", "datasets", "pyarrow", "backports.zstd")

    def options(self, recipe: Recipe) -> dict[str, Any]:
        """How the sources are read."""
        return {
            "fields": [spec.field or recipe.field for spec in recipe.sources],
            "max_documents": recipe.max_documents,
        }

    def run(self, context: Context) -> dict[str, Any]:
        """Writes a part for each stretch of the sources."""
        recipe, folder = context.recipe, context.folder(self.name)
        tally = Tally(on_error=recipe.on_error)
        num_parts = 0
        total = sum(source.num_bytes() for source in context.sources)
        with progress(self.name, total) as advance:
            tasks = _tasks(context.sources, folder, advance)
            for report in in_order(_extract, tasks, num_workers=recipe.workers):
                room = _LARGEST if recipe.max_documents is None else recipe.max_documents - tally.num_documents
                if report.num_documents > room:
                    report = _shortened(part_path(folder, num_parts), room)
                tally.add(report)
                num_parts += 1
                if report.num_documents >= room:
                    break
        for path in part_paths(folder)[num_parts:]:
            path.unlink()
        return tally.summary()


@dataclass(frozen=True)
class _Task:
    source: str
    is_repetitive: bool
    chunk: Chunk | None
    """None where the part is there already."""
    path: Path


def _tasks(sources: list[Source], folder: Path, advance: Advance) -> Iterator[_Task]:
    number = 0
    for source in sources:
        for chunk in source.chunks():
            path = part_path(folder, number)
            yield _Task(source.label, source.is_repetitive, None if _is_done(path) else chunk, path)
            advance(chunk.num_bytes)
            number += 1


def _is_done(path: Path) -> bool:
    """Whether a part is there, and nothing of it may be readable now that was not before."""
    return path.exists() and not read_report(path).left_out[UNREADABLE]


def _extract(task: _Task) -> Report:
    if task.chunk is None:
        return read_report(task.path)
    report = Report(source=task.source, is_repetitive=task.is_repetitive)
    places, texts = [], []
    for item in task.chunk.items():
        if isinstance(item, Document):
            places.append(item.place)
            texts.append(item.text)
        elif isinstance(item, Problem):
            report.add_problem(item)
        else:
            report.left_out[item.reason] += 1
    report.count(texts)
    write_part(task.path, {"place": places, "text": texts}, report)
    return report


def _shortened(path: Path, num_documents: int) -> Report:
    """Leaves the first documents of a part alone; returns its new report."""
    part = read_part(path)
    places, texts = (part.values(name)[:num_documents] for name in ("place", "text"))
    part.report.count(texts)
    write_part(path, {"place": places, "text": texts}, part.report)
    return part.report


if __name__ == "__main__":
    run_stage_as_command(Extract(), __doc__)
