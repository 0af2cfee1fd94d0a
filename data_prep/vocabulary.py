"""Stage 5: trains the vocabulary on documents that are not held out, or takes a given one.

    python data_prep/vocabulary.py --recipe recipes/wiki-books.yaml

It reads at most --tokenizer-megabytes of text, a fair draw of the documents, so that its memory is bounded.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # A script's own folder is on the path, not the checkout; and a module in it has the name of one of Python's own.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.pipeline.command import run_stage_as_command
from data_prep.pipeline.parts import part_paths, read_part, read_report
from data_prep.pipeline.progress import Advance, progress
from data_prep.pipeline.stage import Context
from data_prep.recipe import Recipe
from data_prep.split import MIN_DOCUMENTS, Hashes, heldout_bound, is_heldout, is_in_share
from data_prep.text.alphabet import count_characters
from data_prep.text.tokenizer import read_tokenizer, train_tokenizer
from dsparse.data.manifest import TOKENIZER
from dsparse.errors import UserError
from dsparse.files import flush_to_disk, write_whole

_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Vocabulary:
    """From sentences to a tokenizer."""

    name: str = "vocabulary"
    reads: tuple[str, ...] = ("sentences",)
    libraries: tuple[str, ...] = ("tokenizers", "pyarrow")

    def options(self, recipe: Recipe) -> dict[str, Any]:
        """The tokenizer that is given, or how one is trained; and how much is held out."""
        if recipe.tokenizer is not None:
            read_tokenizer(recipe.tokenizer)
            given = hashlib.sha256(recipe.tokenizer.read_bytes()).hexdigest()
            return {"tokenizer": given, "heldout_fraction": recipe.heldout_fraction}
        return {
            "vocab_size": recipe.vocab_size,
            "tokenizer_megabytes": recipe.tokenizer_megabytes,
            "heldout_fraction": recipe.heldout_fraction,
        }

    def run(self, context: Context) -> dict[str, Any]:
        """Writes tokenizer.json."""
        recipe, parts = context.recipe, part_paths(context.folder("sentences"))
        # The library's threads; it reads this when it first needs them.
        os.environ["RAYON_NUM_THREADS"] = str(recipe.workers)
        num_documents = sum(len(hashes) for hashes, _ in _hashes(parts))
        if num_documents < 2 * MIN_DOCUMENTS:
            labels = ", ".join(spec.source for spec in recipe.sources)
            raise UserError(
                f"Expected at least {2 * MIN_DOCUMENTS} documents of text in {labels}. Got {num_documents}: give more "
                "text (each file of text:DIR and each line of jsonl:FILE is one), or let the filters leave out less."
            )
        bound = heldout_bound(_hashes(parts), fraction=recipe.heldout_fraction)
        path = context.folder(self.name) / TOKENIZER
        if recipe.tokenizer is not None:
            shutil.copyfile(recipe.tokenizer, path)
            flush_to_disk(path)
            said = "the given tokenizer"
        else:
            said = _train(parts, path, bound=bound, recipe=recipe)
        return {"heldout_bound": bound, "said": said}


def _train(parts: list[Path], path: Path, *, bound: int, recipe: Recipe) -> str:
    num_bytes = sum(read_report(part).num_bytes for part in parts)
    share = min(1.0, recipe.tokenizer_megabytes * _MEGABYTE / max(num_bytes, 1))
    characters: Counter[str] = Counter()
    num_sentences = 0
    for document in _documents(parts, bound=bound, share=share):
        characters.update(count_characters(document))
        num_sentences += document.count("\n") + 1
    with progress("training the vocabulary", num_sentences) as advance:
        trained = train_tokenizer(
            _followed(_documents(parts, bound=bound, share=share), advance),
            characters=characters,
            vocab_size=recipe.vocab_size,
            num_sentences=num_sentences,
        )
    write_whole(path, trained.to_str(pretty=True) + "\n")
    size = trained.get_vocab_size()
    fewer = f", fewer than the {recipe.vocab_size:,} asked: the text yields no more" * (size < recipe.vocab_size)
    return f"{size:,} word pieces{fewer}"


def _hashes(parts: list[Path]) -> Iterator[tuple[Hashes, NDArray[np.int32]]]:
    for path in parts:
        table = read_part(path, ["hash", "num_sentences"]).table
        yield table.column("hash").to_numpy(), table.column("num_sentences").to_numpy()


def _documents(parts: list[Path], *, bound: int, share: float) -> Iterator[str]:
    """A share of the training documents, sentences a line."""
    for path in parts:
        part = read_part(path, ["hash", "text"])
        hashes_D = part.table.column("hash").to_numpy()
        is_taken_D = ~is_heldout(hashes_D, bound) & is_in_share(hashes_D, share)
        yield from (text for text, is_taken in zip(part.values(), is_taken_D, strict=True) if is_taken and text)


def _followed(documents: Iterable[str], advance: Advance) -> Iterator[list[str]]:
    for document in documents:
        sentences = document.split("\n")
        yield sentences
        advance(len(sentences))


if __name__ == "__main__":
    run_stage_as_command(Vocabulary(), __doc__)
