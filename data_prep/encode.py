"""Stage 6: turns sentences into token ids.

    python data_prep/encode.py --recipe recipes/wiki-books.yaml

Here documents are parted into those to train on and those held out, and a source's weight takes effect.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # A script's own folder is on the path, not the checkout; and a module in it has the name of one of Python's own.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.pipeline.command import run_stage_as_command
from data_prep.pipeline.mapping import map_parts
from data_prep.pipeline.parts import Part, Report
from data_prep.pipeline.stage import Context
from data_prep.pipeline.tally import tallied
from data_prep.recipe import Recipe
from data_prep.split import is_heldout, num_copies
from data_prep.text.encoder import SentenceEncoder
from dsparse.data.manifest import TOKENIZER

NOT_DRAWN, NO_TOKEN = "weight below 1", "no token"


@dataclass(frozen=True)
class Options:
    """What decides the tokens of a part."""

    tokenizer: Path
    heldout_bound: int
    weights: dict[str, float]
    """By label of the source."""


@dataclass(frozen=True)
class Encode:
    """From sentences to tokens."""

    name: str = "encode"
    reads: tuple[str, ...] = ("sentences", "vocabulary")
    libraries: tuple[str, ...] = ("tokenizers", "gigatoken", "numpy", "pyarrow")

    def options(self, recipe: Recipe) -> dict[str, Any]:
        """Weights of the sources."""
        return {"weights": {spec.source: spec.weight for spec in recipe.sources}}

    def run(self, context: Context) -> dict[str, Any]:
        """Writes a part for each part: for each document ids, sentence lengths, split, copies."""
        recipe = context.recipe
        options = Options(
            context.folder("vocabulary") / TOKENIZER,
            context.record("vocabulary").summary["heldout_bound"],
            {spec.source: spec.weight for spec in recipe.sources},
        )
        reports = map_parts(
            _encode,
            context.parts("sentences"),
            context.folder(self.name),
            options=options,
            num_workers=recipe.workers,
            packed=False,
        )
        return tallied(reports, on_error=recipe.on_error)


def _encode(part: Part, options: Options) -> tuple[dict[str, Any], Report]:
    encoder = _encoder(options.tokenizer)
    hashes_D = part.table.column("hash").to_numpy()
    is_heldout_D = is_heldout(hashes_D, options.heldout_bound)
    copies_D = np.where(is_heldout_D, 1, num_copies(hashes_D, options.weights[part.report.source]))
    report = Report(source=part.report.source)
    ids, lengths, sizes, kept = [], [], [], []
    for number, (text, copies) in enumerate(zip(part.values(), copies_D.tolist(), strict=True)):
        if not copies:
            report.left_out[NOT_DRAWN] += 1
            continue
        # A sentence of nothing but what the tokenizer drops has no token.
        encoded = [one for one in encoder.encode(text.split("\n")) if one]
        if encoded:
            ids.append(b"".join(encoded))
            lengths.append((np.fromiter(map(len, encoded), np.int32) // encoder.dtype.itemsize).tobytes())
            # Without what separates sentences.
            sizes.append(len(text.encode()) - text.count("\n"))
            kept.append(number)
            report.num_documents += copies
            report.num_sentences += copies * len(encoded)
            report.num_bytes += copies * sizes[-1]
        else:
            report.left_out[NO_TOKEN] += 1
    columns = {
        "ids": pa.array(ids, pa.large_binary()),
        "lengths": pa.array(lengths, pa.large_binary()),
        "is_heldout": pa.array(is_heldout_D[kept]),
        "copies": pa.array(copies_D[kept], pa.int32()),
        "num_bytes": pa.array(sizes, pa.int64()),
    }
    return columns, report


@cache
def _encoder(tokenizer: Path) -> SentenceEncoder:
    return SentenceEncoder(tokenizer)


if __name__ == "__main__":
    run_stage_as_command(Encode(), __doc__)
