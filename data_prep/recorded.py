"""What a store's manifest says of how it was made, and whether a store that is there is the one asked for."""

from __future__ import annotations

import dataclasses
from typing import Any

from data_prep.pipeline.stage import Context
from data_prep.recipe import filters_of
from data_prep.staging import holds_only_a_store
from dsparse.data.manifest import MANIFEST, Manifest
from dsparse.data.vocabulary import Vocabulary
from dsparse.errors import UserError


def recorded_recipe(context: Context) -> dict[str, Any]:
    """Everything that decides a store's content but the version of the code; plain JSON."""
    recipe = context.recipe
    given = None if recipe.tokenizer is None else Vocabulary.read(recipe.tokenizer).sha256
    sources = [
        {
            "source": spec.source,
            "weight": spec.weight,
            "field": spec.field or recipe.field,
            **dataclasses.asdict(record),
        }
        for spec, record in zip(recipe.sources, context.inputs, strict=True)
    ]
    return {
        "sources": sources,
        "max_documents": recipe.max_documents,
        "filters": dataclasses.asdict(filters_of(recipe)),
        "near_duplicates": recipe.near_duplicates,
        "vocab_size": None if given else recipe.vocab_size,
        "tokenizer_megabytes": None if given else recipe.tokenizer_megabytes,
        "tokenizer_sha256": given,
        "heldout_fraction": recipe.heldout_fraction,
        "seed": recipe.seed,
        "shard_megatokens": recipe.shard_megatokens,
    }


def is_there(context: Context) -> bool:
    """Whether the store is complete and was made by the same recipe from the same input.

    Raises:
        UserError: something else is in the way.
    """
    recipe, out = context.recipe, context.recipe.out
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not holds_only_a_store(out):
        raise UserError(f"Expected --out to be new, empty or a token store. Got {out}, which holds something else.")
    if recipe.overwrite:
        return False
    if not (out / MANIFEST).is_file():
        raise UserError(f"Expected --out to be new or complete. Got {out} without {MANIFEST}; --overwrite replaces it.")
    manifest = Manifest.read(out)
    now = recorded_recipe(context)
    changed = [
        f"{key} was {manifest.recipe.get(key)}, now {now[key]}" for key in now if manifest.recipe.get(key) != now[key]
    ]
    if changed:
        raise UserError(
            f"Expected the recipe and the input that made {out}. Got others: {'; '.join(changed)}; --overwrite makes "
            "the store anew."
        )
    manifest.check(out)
    return True
