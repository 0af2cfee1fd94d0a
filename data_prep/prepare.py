"""Makes a token store from text: all stages one after the other, each skipped where it is done and nothing changed.

    python data_prep/prepare.py --recipe recipes/wiki-books.yaml
    python data_prep/prepare.py --source installed-docs --vocab-size 8192 --out build/store
    python data_prep/prepare.py --source gutenberg:books --source jsonl:wiki.jsonl.gz --out build/store

extract, clean, deduplicate, sentences, vocabulary, encode, assemble, verify: each is a command of its own with the same
arguments. What they make on the way lies in STORE.work. Interrupted or killed at any moment, the same command goes on
where it was, and ends in the same bytes. The store is in Megatron-LM's indexed format, with a manifest.json.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # A script's own folder is on the path, not the checkout; and a module in it has the name of one of Python's own.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import time
from collections.abc import Sequence

from data_prep.assemble import assemble
from data_prep.clean import Clean
from data_prep.deduplicate import Deduplicate
from data_prep.encode import Encode
from data_prep.extract import Extract
from data_prep.pipeline.command import run_as_command
from data_prep.pipeline.stage import Context, Stage, require_ours, run_stage
from data_prep.recorded import is_there
from data_prep.sentences import Sentences
from data_prep.verify import verify
from data_prep.vocabulary import Vocabulary

STAGES: tuple[Stage, ...] = (Extract(), Clean(), Deduplicate(), Sentences(), Vocabulary(), Encode())
"""In order; assembling and verifying come after them."""


def main(argv: Sequence[str] | None = None) -> None:
    """The program; exits with 2 after a user error and with 130 when interrupted."""
    run_as_command(prepare, "prepare", __doc__, argv)


def prepare(context: Context) -> None:
    """Makes the store, or says that it is there already.

    Raises:
        UserError: an input is missing or malformed, the corpus is too small, or something else is in the way.
    """
    recipe, t0_s = context.recipe, time.monotonic()
    if is_there(context):
        print(f"{recipe.out} is complete; --overwrite makes it anew")
        return
    for stage in STAGES:
        require_ours(context.folder(stage.name))
    for stage in STAGES:
        run_stage(stage, context)
    assemble(context)
    manifest = verify(recipe.out)
    train, heldout = manifest.splits["train"], manifest.splits["heldout"]
    print(
        f"{recipe.out}: {train.num_documents:,} documents of {train.num_sentences:,} sentences and "
        f"{train.num_tokens:,} tokens for training, {heldout.num_documents:,} documents of {heldout.num_tokens:,} "
        f"tokens held out, {manifest.vocab_size:,} word pieces, verified, in {time.monotonic() - t0_s:.0f} s"
    )
    for source in manifest.sources:
        if not source.num_documents:
            print(f"nothing in the store is from {source.label}: {source.dropped or 'it is empty'}")
    print(f"{recipe.work} holds what the stages made on the way; remove it when no more changes are to come")


if __name__ == "__main__":
    main()
