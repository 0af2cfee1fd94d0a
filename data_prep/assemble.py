"""Stage 7: puts the tokens together as a store: shards of each split, tokenizer and manifest.

    python data_prep/assemble.py --recipe recipes/wiki-books.yaml

The store appears whole or not at all: it is made in a hidden folder beside its place, which is renamed at the end.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # A script's own folder is on the path, not the checkout; and a module in it has the name of one of Python's own.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import platform
import shutil
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.pipeline.code_version import library_versions
from data_prep.pipeline.command import run_as_command
from data_prep.pipeline.parts import Part, read_part
from data_prep.pipeline.progress import progress
from data_prep.pipeline.stage import Context, StageRecord
from data_prep.recorded import recorded_recipe
from data_prep.shards import ShardWriter
from data_prep.split import MIN_DOCUMENTS
from data_prep.staging import staged
from dsparse.data.manifest import SHARD_SUFFIXES, SPLITS, TOKENIZER, Manifest, SourceCounts
from dsparse.data.store import smallest_dtype
from dsparse.data.vocabulary import Vocabulary
from dsparse.errors import UserError
from dsparse.files import FileRecord

_STAGES = ("extract", "clean", "deduplicate", "sentences", "vocabulary", "encode")
_MEGA = 1_000_000


def assemble(context: Context) -> Manifest:
    """Writes the store.

    Raises:
        UserError: an earlier stage is not done, or there is too little text for a split.
    """
    recipe = context.recipe
    records = {name: context.record(name) for name in _STAGES}
    given = context.folder("vocabulary") / TOKENIZER
    vocabulary = Vocabulary.read(given)
    with staged(recipe.out) as store:
        shutil.copyfile(given, store / TOKENIZER)
        parts = context.parts("encode")
        dtype = smallest_dtype(vocabulary.size)
        written = _write(parts, store, dtype, shard_tokens=recipe.shard_megatokens * _MEGA)
        _require_pairs(written.writers, recipe.heldout_fraction)
        shards = {split: writer.names for split, writer in written.writers.items()}
        pairs = [f"{name}{suffix}" for names in shards.values() for name in names for suffix in SHARD_SUFFIXES]
        manifest = Manifest(
            vocab_size=vocabulary.size,
            tokenizer_sha256=vocabulary.sha256,
            special_ids=vocabulary.special_ids,
            splits={split: writer.counts for split, writer in written.writers.items()},
            shards=shards,
            files={name: FileRecord.of(store / name) for name in (TOKENIZER, *pairs)},
            sources=_source_counts(context, written.by_source, records),
            recipe=recorded_recipe(context),
            versions=versions(records),
        )
        manifest.write(store)
    return manifest


def versions(records: Mapping[str, StageRecord]) -> dict[str, str]:
    """Of Python, of the libraries that the stages used, and of the code of each stage.

    Args:
        records: of the stages that the store is made of, by name.
    """
    libraries: dict[str, str] = {}
    for record in records.values():
        libraries |= record.key["libraries"]
    code = {f"code of {name}": record.key["code"] for name, record in records.items()}
    return {"python": platform.python_version(), **library_versions(("dsparse",)), **libraries, **code}


@dataclass
class _Written:
    writers: dict[str, ShardWriter]
    by_source: dict[str, Counter[str]] = field(default_factory=dict)


def _write(parts: Mapping[Path, str], store: Path, dtype: np.dtype[Any], *, shard_tokens: int) -> _Written:
    with ExitStack() as stack:
        sizes = [path.stat().st_size for path in parts]
        advance = stack.enter_context(progress("assemble", sum(sizes)))
        writers = {
            split: stack.enter_context(ShardWriter(store, split, dtype, shard_tokens=shard_tokens)) for split in SPLITS
        }
        written = _Written(writers)
        for (path, sha256), size in zip(parts.items(), sizes, strict=True):
            _add(read_part(path, sha256=sha256), written, dtype)
            advance(size)
    return written


def _add(part: Part, written: _Written, dtype: np.dtype[Any]) -> None:
    sums = written.by_source.setdefault(part.report.source, Counter())
    names = ("ids", "lengths", "is_heldout", "copies", "num_bytes")
    for ids, lengths, is_heldout, copies, num_bytes in zip(*map(part.values, names), strict=True):
        tokens, lengths_S = np.frombuffer(ids, dtype), np.frombuffer(lengths, np.int32)
        writer = written.writers[SPLITS[is_heldout]]
        for _ in range(copies):
            writer.add(tokens, lengths_S, num_bytes)
        sums["num_documents"] += copies
        sums["num_sentences"] += copies * len(lengths_S)
        sums["num_tokens"] += copies * len(tokens)
        sums["num_bytes"] += copies * num_bytes


def _source_counts(
    context: Context, by_source: dict[str, Counter[str]], records: Mapping[str, StageRecord]
) -> list[SourceCounts]:
    counts = []
    for spec in context.recipe.sources:
        dropped: Counter[str] = Counter()
        for record in records.values():
            dropped.update(record.summary.get("sources", {}).get(spec.source, {}).get("left_out", {}))
        names = ("num_documents", "num_sentences", "num_tokens", "num_bytes")
        sums = {name: by_source.get(spec.source, Counter())[name] for name in names}
        counts.append(
            SourceCounts(label=spec.source, weight=spec.weight, **sums, dropped=dict(sorted(dropped.items())))
        )
    return counts


def _require_pairs(writers: dict[str, ShardWriter], heldout_fraction: float) -> None:
    """Raises UserError unless each split has a pair of sentences and another document."""
    for split, writer in writers.items():
        if writer.counts.num_documents < MIN_DOCUMENTS or writer.longest < 2:
            raise UserError(
                f"Expected at least {MIN_DOCUMENTS} documents, one of them of two sentences, in the {split} split. "
                f"Got {writer.counts.num_documents} documents, the longest of {writer.longest} sentences: give more "
                f"text or change --heldout-fraction, now {heldout_fraction}."
            )


if __name__ == "__main__":
    run_as_command(assemble, "assemble", __doc__)
