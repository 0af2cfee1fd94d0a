"""Stage 2: repairs the text of documents and leaves out those that are not prose.

    python data_prep/clean.py --recipe recipes/wiki-books.yaml

Every document that is left out is counted under a reason.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # A script's own folder is on the path, not the checkout; and a module in it has the name of one of Python's own.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import dataclasses
from dataclasses import dataclass
from typing import Any

from data_prep.pipeline.command import run_stage_as_command
from data_prep.pipeline.mapping import map_parts
from data_prep.pipeline.parts import Part, Report
from data_prep.pipeline.stage import Context
from data_prep.pipeline.tally import tallied
from data_prep.recipe import Recipe, filters_of
from data_prep.text.filters import Filters
from data_prep.text.repair import repair

NO_TEXT = "no text"


@dataclass(frozen=True)
class Clean:
    """From documents to documents worth training on."""

    name: str = "clean"
    reads: tuple[str, ...] = ("extract",)
    libraries: tuple[str, ...] = ("ftfy", "py3langid", "pyarrow")

    def options(self, recipe: Recipe) -> dict[str, Any]:
        """Bounds of all filters."""
        return {"filters": dataclasses.asdict(filters_of(recipe))}

    def run(self, context: Context) -> dict[str, Any]:
        """Writes a part for each part."""
        recipe = context.recipe
        reports = map_parts(
            _clean,
            context.parts("extract"),
            context.folder(self.name),
            options=filters_of(recipe),
            num_workers=recipe.workers,
        )
        return tallied(reports, on_error=recipe.on_error)


def _clean(part: Part, filters: Filters) -> tuple[dict[str, list[str]], Report]:
    report = Report(source=part.report.source, is_repetitive=part.report.is_repetitive)
    places, texts = [], []
    for place, raw in zip(part.values("place"), part.values(), strict=True):
        text = repair(raw)
        reason = filters.why_dropped(text) if text else NO_TEXT
        if reason:
            report.left_out[reason] += 1
        else:
            places.append(place)
            texts.append(text)
    report.count(texts)
    return {"place": places, "text": texts}, report


if __name__ == "__main__":
    run_stage_as_command(Clean(), __doc__)
