"""Makes a token store from text: reads documents, trains a vocabulary, writes tokens for pre-training.

    python data_prep/prepare.py --source installed-docs --vocab-size 8192 --out build/store
    python data_prep/prepare.py --source text:books --source jsonl:wiki.jsonl --out build/store

The store holds train-00000.bin|idx and heldout-00000.bin|idx (Megatron-LM's indexed format), tokenizer.json and
manifest.json. It appears whole or not at all; running the same command again finds it complete and does nothing.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

# A script's own folder is on the path, not the checkout it belongs to.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.corpus import read_corpus, write_corpus
from data_prep.progress import followed, progress
from data_prep.sources import Source, parse_source
from data_prep.split import MIN_DOCUMENTS, heldout_bound, split_of
from data_prep.staging import holds_only_a_store, staged
from data_prep.tokenizer import MIN_VOCAB_SIZE, read_tokenizer, train_tokenizer
from data_prep.write import file_records, write_splits
from dsparse.data.manifest import MANIFEST, TOKENIZER, Manifest, SplitCounts, shard_name
from dsparse.data.store import TokenStore
from dsparse.data.vocabulary import Vocabulary
from dsparse.errors import UserError, exit_on_user_error
from dsparse.files import write_whole

_CORPUS = "corpus.txt"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be made."""

    sources: list[str]
    out: Path
    vocab_size: int
    heldout_fraction: float
    tokenizer: Path | None
    seed: int
    num_workers: int
    overwrite: bool
    max_documents: int | None
    jsonl_field: str


def main(argv: Sequence[str] | None = None) -> None:
    """The program; exits with 2 after a user error and with 130 when interrupted."""
    arguments = _parser().parse_args(argv)
    with exit_on_user_error(arguments.debug):
        request = _request(arguments)
        try:
            prepare(request)
        except KeyboardInterrupt:
            print(f"interrupted; nothing was written to {request.out}", file=sys.stderr)
            sys.exit(130)


def prepare(request: Request) -> None:
    """Makes the store, or says that it is there already.

    Raises:
        UserError: an input is missing or malformed, the corpus is too small, or something else is in the way.
    """
    sources = [parse_source(spec, jsonl_field=request.jsonl_field) for spec in request.sources]
    recorded = _recorded_arguments(request, [source.size() for source in sources])
    if _is_there(request, recorded):
        print(f"{request.out} is complete; --overwrite makes it anew")
        return
    t0_s = time.monotonic()
    with staged(request.out) as store:
        splits, vocabulary = _make(request, sources, store)
        _write_manifest(store, splits, vocabulary, recorded)
    train, heldout = splits["train"], splits["heldout"]
    print(
        f"{request.out}: {train.num_documents:,} documents of {train.num_sentences:,} sentences and "
        f"{train.num_tokens:,} tokens for training, {heldout.num_documents:,} documents of {heldout.num_tokens:,} "
        f"tokens held out, {vocabulary.size:,} word pieces, in {time.monotonic() - t0_s:.0f} s"
    )


def _make(request: Request, sources: list[Source], store: Path) -> tuple[dict[str, SplitCounts], Vocabulary]:
    """Everything but the manifest."""
    # The tokenizer library's threads; it reads this when it first needs them.
    os.environ["RAYON_NUM_THREADS"] = str(request.num_workers)
    corpus = store / _CORPUS
    counts = write_corpus(sources, corpus, num_workers=request.num_workers, max_documents=request.max_documents)
    print(
        f"{counts.num_documents:,} documents of {counts.num_sentences:,} sentences and {counts.num_words:,} words; "
        f"{counts.num_duplicates:,} duplicates left out"
    )
    if counts.num_documents < 2 * MIN_DOCUMENTS:
        raise UserError(
            f"Expected at least {2 * MIN_DOCUMENTS} documents of text in {', '.join(request.sources)}. "
            f"Got {counts.num_documents}: give more text (each file of text:DIR and each line of jsonl:FILE is one)."
        )
    bound = heldout_bound(read_corpus(corpus), fraction=request.heldout_fraction, seed=request.seed)
    choose_split = partial(split_of, bound=bound, seed=request.seed)
    if request.tokenizer is not None:
        write_whole(store / TOKENIZER, request.tokenizer.read_text(encoding="utf-8"))
    else:
        with progress("training the vocabulary", counts.num_documents) as advance:
            documents = followed(read_corpus(corpus), advance)
            trained = train_tokenizer(
                (document for document in documents if choose_split(document) == "train"),
                characters=counts.characters,
                vocab_size=request.vocab_size,
                num_sentences=counts.num_sentences,
            )
        write_whole(store / TOKENIZER, trained.to_str(pretty=True) + "\n")
        if trained.get_vocab_size() < request.vocab_size:
            print(
                f"the text yields {trained.get_vocab_size():,} word pieces, fewer than the {request.vocab_size:,} asked"
            )
    tokenizer = read_tokenizer(store / TOKENIZER)
    splits = write_splits(corpus, store, tokenizer, split_of=choose_split, num_documents=counts.num_documents)
    corpus.unlink()
    _require_pairs(store, splits, request)
    return splits, Vocabulary.read(store / TOKENIZER)


def _require_pairs(store: Path, splits: dict[str, SplitCounts], request: Request) -> None:
    """Raises UserError unless each split has a pair of sentences and another document."""
    for split, counts in splits.items():
        longest = max(np.diff(TokenStore(store / shard_name(split, 0)).documents), default=0)
        if counts.num_documents < MIN_DOCUMENTS or longest < 2:
            raise UserError(
                f"Expected at least {MIN_DOCUMENTS} documents, one of them of two sentences, in the {split} split. "
                f"Got {counts.num_documents} documents, the longest of {longest} sentences: give more text or change "
                f"--heldout-fraction, now {request.heldout_fraction}."
            )


def _write_manifest(
    store: Path,
    splits: dict[str, SplitCounts],
    vocabulary: Vocabulary,
    recorded: dict[str, Any],
) -> None:
    Manifest(
        vocab_size=vocabulary.size,
        tokenizer_sha256=vocabulary.sha256,
        special_ids=vocabulary.special_ids,
        splits=splits,
        shards={split: [shard_name(split, 0)] for split in splits},
        files=file_records(store),
        recipe=recorded,
    ).write(store)


def _recorded_arguments(request: Request, sizes: list[dict[str, int] | None]) -> dict[str, Any]:
    """What decides the store's content, for the manifest."""
    tokenizer_sha256 = None if request.tokenizer is None else Vocabulary.read(request.tokenizer).sha256
    return {
        "sources": request.sources,
        "source_sizes": sizes,
        "vocab_size": None if request.tokenizer else request.vocab_size,
        "tokenizer_sha256": tokenizer_sha256,
        "heldout_fraction": request.heldout_fraction,
        "seed": request.seed,
        "max_documents": request.max_documents,
        "jsonl_field": request.jsonl_field,
    }


def _is_there(request: Request, recorded: dict[str, Any]) -> bool:
    """Whether the store is complete and was made by the same command; UserError if something else is in the way."""
    out = request.out
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not holds_only_a_store(out):
        raise UserError(f"Expected --out to be new, empty or a token store. Got {out}, which holds something else.")
    if request.overwrite:
        return False
    if not (out / MANIFEST).is_file():
        raise UserError(f"Expected --out to be new or complete. Got {out} without {MANIFEST}; --overwrite replaces it.")
    manifest = Manifest.read(out)
    was = manifest.recipe
    changed = [f"{key} was {was.get(key)}, now {recorded[key]}" for key in recorded if was.get(key) != recorded[key]]
    if changed:
        raise UserError(
            f"Expected the arguments that made {out}. Got others: {'; '.join(changed)}; --overwrite makes it anew."
        )
    manifest.check(out)
    return True


def _request(arguments: argparse.Namespace) -> Request:
    """The arguments, checked."""
    for flag, value, low, high in (
        ("--vocab-size", arguments.vocab_size, MIN_VOCAB_SIZE, 2**31 - 1),
        ("--seed", arguments.seed, 0, 2**63 - 1),
        ("--workers", arguments.workers, 1, 1024),
        ("--max-documents", arguments.max_documents, 1, 2**63 - 1),
    ):
        if value is not None and not low <= value <= high:
            raise UserError(f"Expected {flag} from {low} to {high}. Got {value}.")
    if not 0 < arguments.heldout_fraction < 1:
        raise UserError(f"Expected --heldout-fraction in (0, 1). Got {arguments.heldout_fraction}.")
    return Request(
        sources=arguments.source,
        out=arguments.out,
        vocab_size=arguments.vocab_size,
        heldout_fraction=arguments.heldout_fraction,
        tokenizer=arguments.tokenizer,
        seed=arguments.seed,
        num_workers=arguments.workers,
        overwrite=arguments.overwrite,
        max_documents=arguments.max_documents,
        jsonl_field=arguments.jsonl_field,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prepare.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Check a store's every byte with: python data_prep/verify.py STORE",
    )
    add = parser.add_argument
    add(
        "--source", action="append", required=True, metavar="SOURCE",
        help="where text comes from; give it several times for several. installed-docs: docstrings of the standard "
        "library and the installed packages. text:DIR: files *.txt, *.text, *.md, *.rst under a folder, each a "
        "document. jsonl:FILE: a JSON object on each line, each a document",
    )  # fmt: skip
    add("--out", type=Path, required=True, metavar="STORE", help="folder to make")
    add("--vocab-size", type=int, default=8192, help="word pieces to train (default: %(default)s)")
    add("--tokenizer", type=Path, metavar="FILE", help="a WordPiece tokenizer.json to use instead of training one")
    add("--heldout-fraction", type=float, default=0.03, help="share of documents held out (default: %(default)s)")
    add("--seed", type=int, default=42, help="of which documents are held out (default: %(default)s)")
    add("--jsonl-field", default="text", help="name of the text in JSON lines (default: %(default)s)")
    add("--max-documents", type=int, help="stop after so many documents (default: all)")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores, here %(default)s)")
    add("--overwrite", action="store_true", help="replace the store that is there")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    main()
