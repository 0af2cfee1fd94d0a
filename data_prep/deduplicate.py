"""Stage 3: leaves out documents that were there before, word for word or nearly.

    python data_prep/deduplicate.py --recipe recipes/wiki-books.yaml

Of a source that repeats itself, the installed documentation, it is paragraphs that are compared.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # A script's own folder is on the path, not the checkout; and a module in it has the name of one of Python's own.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.duplicates.find import DuplicateFinder, Kind
from data_prep.duplicates.signature import ALGORITHM_VERSION, MinHashOptions, signatures
from data_prep.pipeline.command import run_stage_as_command
from data_prep.pipeline.mapping import map_parts
from data_prep.pipeline.parts import Part, Report, read_part
from data_prep.pipeline.progress import progress
from data_prep.pipeline.stage import Context
from data_prep.pipeline.tally import tallied
from data_prep.pipeline.workers import in_order
from data_prep.recipe import Recipe
from dsparse.files import flush_to_disk

REASONS = {Kind.EXACT: "duplicate", Kind.NEAR: "near duplicate"}
PARAGRAPH_REASONS = {Kind.EXACT: "duplicate paragraph", Kind.NEAR: "near-duplicate paragraph"}
NOTHING_NEW = "nothing but duplicate paragraphs"

_BETWEEN_PARAGRAPHS = "\n\n"


@dataclass(frozen=True)
class Deduplicate:
    """From documents to different documents."""

    name: str = "deduplicate"
    reads: tuple[str, ...] = ("clean",)
    libraries: tuple[str, ...] = ("rensa", "pyarrow")

    def options(self, recipe: Recipe) -> dict[str, Any]:
        """From which similarity documents are the same."""
        return {"near_duplicates": recipe.near_duplicates, "minhash": ALGORITHM_VERSION}

    def run(self, context: Context) -> dict[str, Any]:
        """Writes a part for each part.

        Signatures are made in parallel, duplicates found in this process and bounded memory, and the parts then
        written in parallel.
        """
        recipe, folder = context.recipe, context.folder(self.name)
        parts = context.parts("clean")
        options = None if recipe.near_duplicates is None else MinHashOptions(threshold=recipe.near_duplicates)
        aside = folder / "aside"
        _find(parts, aside, options, num_workers=recipe.workers)
        reports = map_parts(_keep, parts, folder, options=aside, num_workers=recipe.workers)
        summary = tallied(reports, on_error=recipe.on_error)
        shutil.rmtree(aside)
        return summary


@dataclass(frozen=True)
class _Task:
    part: Path
    target: Path
    options: MinHashOptions | None


def _find(parts: Mapping[Path, str], aside: Path, options: MinHashOptions | None, *, num_workers: int) -> None:
    """Writes a file with a `Kind` for each unit of each part, PART.npy."""
    aside.mkdir(exist_ok=True)
    tasks = [_Task(path, aside / f"{path.stem}.signatures", options) for path in parts]
    sizes = [path.stat().st_size for path in parts]
    with progress("signatures of documents", sum(sizes)) as advance:
        for size, _ in zip(sizes, in_order(_sign, tasks, num_workers=num_workers), strict=True):
            advance(size)
    found = DuplicateFinder(aside / "join").find([task.target for task in tasks], options)
    with progress("comparing documents", len(parts)) as advance:
        for path, duplicates in zip(parts, found, strict=True):
            np.save(aside / f"{path.stem}.npy", duplicates.kinds_N)
            advance(1)


def _sign(task: _Task) -> None:
    if not task.target.exists():
        units = [unit for units in _units(read_part(task.part)) for unit in units]
        partial = task.target.with_suffix(".partial")
        signatures(units, task.options).save(partial)
        flush_to_disk(partial)
        partial.replace(task.target)


def _units(part: Part) -> Iterator[list[str]]:
    """What is compared of each document."""
    for text in part.values():
        yield text.split(_BETWEEN_PARAGRAPHS) if part.report.is_repetitive else [text]


def _keep(part: Part, aside: Path) -> tuple[dict[str, list[str]], Report]:
    report = Report(source=part.report.source, is_repetitive=part.report.is_repetitive)
    kinds = iter(np.load(aside / f"{part.path.stem}.npy").tolist())
    reasons = PARAGRAPH_REASONS if report.is_repetitive else REASONS
    places, texts = [], []
    for place, units in zip(part.values("place"), _units(part), strict=True):
        kept = []
        for unit in units:
            kind = next(kinds)
            if kind == Kind.KEPT:
                kept.append(unit)
            else:
                report.left_out[reasons[kind]] += 1
        if kept:
            places.append(place)
            texts.append(_BETWEEN_PARAGRAPHS.join(kept))
        elif report.is_repetitive:
            report.left_out[NOTHING_NEW] += 1
    report.count(texts)
    return {"place": places, "text": texts}, report


if __name__ == "__main__":
    run_stage_as_command(Deduplicate(), __doc__)
