"""Stage 4: splits paragraphs into sentences.

    python data_prep/sentences.py --recipe recipes/wiki-books.yaml

With its sentences, a document gets the hash by which it is trained on or held out.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # A script's own folder is on the path, not the checkout; and a module in it has the name of one of Python's own.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data_prep.pipeline.command import run_stage_as_command
from data_prep.pipeline.mapping import map_parts
from data_prep.pipeline.parts import Part, Report
from data_prep.pipeline.stage import Context
from data_prep.pipeline.tally import tallied
from data_prep.recipe import Recipe
from data_prep.split import place_of
from data_prep.text.sentences import split_sentences


@dataclass(frozen=True)
class Sentences:
    """From paragraphs to sentences."""

    name: str = "sentences"
    reads: tuple[str, ...] = ("deduplicate",)
    libraries: tuple[str, ...] = ("sentencex", "pyarrow")

    def options(self, recipe: Recipe) -> dict[str, Any]:
        """The seed of the split."""
        return {"seed": recipe.seed}

    def run(self, context: Context) -> dict[str, Any]:
        """Writes a part for each part: places, sentences (a line each), their numbers and hashes."""
        recipe = context.recipe
        reports = map_parts(
            _split,
            context.parts("deduplicate"),
            context.folder(self.name),
            options=recipe.seed,
            num_workers=recipe.workers,
        )
        return tallied(reports, on_error=recipe.on_error)


def _split(part: Part, seed: int) -> tuple[dict[str, Any], Report]:
    report = Report(source=part.report.source)
    texts, num_sentences, hashes = [], [], []
    for text in part.values():
        sentences = [sentence for paragraph in text.split("\n\n") for sentence in split_sentences(paragraph)]
        joined = "\n".join(sentences)
        texts.append(joined)
        num_sentences.append(len(sentences))
        hashes.append(place_of(joined, seed))
    report.count(texts)
    report.num_sentences = sum(num_sentences)
    columns = {
        "place": part.values("place"),
        "text": texts,
        "num_sentences": pa.array(num_sentences, pa.int32()),
        "hash": pa.array(hashes, pa.uint64()),
    }
    return columns, report


if __name__ == "__main__":
    run_stage_as_command(Sentences(), __doc__)
