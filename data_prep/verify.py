"""Checks every byte of a token store: hashes, structure, token ids and counts.

    python data_prep/verify.py build/store

Exits with 0 if all is well and with 2 after one line that names what is not.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # A script's own folder is on the path, not the checkout; and a module in it has the name of one of Python's own.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dsparse.data.manifest import Manifest
from dsparse.data.shards import ShardedStore
from dsparse.data.store import TokenStore
from dsparse.errors import UserError, exit_on_user_error
from dsparse.files import FileRecord


def main(argv: Sequence[str] | None = None) -> None:
    """The program; exits with 2 if something is wrong."""
    parser = argparse.ArgumentParser(
        prog="verify.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="folder made by prepare.py")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(argv)
    with exit_on_user_error(arguments.debug):
        manifest = verify(arguments.store)
        num_bytes = sum(record.num_bytes for record in manifest.files.values())
        sizes = ", ".join(f"{split} {counts.num_tokens:,} tokens" for split, counts in manifest.splits.items())
        print(f"{arguments.store}: sound, {num_bytes:,} bytes in {len(manifest.files)} files, {sizes}")


def verify(store: Path) -> Manifest:
    """Reads a whole store.

    Returns:
        Its manifest.

    Raises:
        UserError: something is wrong; names every file and what it is.
    """
    manifest = Manifest.read(store)
    # Of a file that was altered, its structure says nothing but that, and not always by the right name.
    problems = list(_wrong_files(store, manifest)) or list(_wrong_structure(store, manifest))
    if problems:
        raise UserError(
            f"Expected {store} to be as it was written. Got: {'; '.join(problems)}. "
            "Make it again with data_prep/prepare.py --overwrite."
        )
    return manifest


def _wrong_files(store: Path, manifest: Manifest) -> Iterator[str]:
    for name, record in manifest.files.items():
        path = store / name
        if not path.is_file():
            yield f"{path} is missing"
            continue
        found = FileRecord.of(path)
        if found.num_bytes != record.num_bytes:
            how = "truncated" if found.num_bytes < record.num_bytes else "altered"
            yield f"{path} was {how} ({found.num_bytes} bytes, not {record.num_bytes})"
        elif found != record:
            yield f"{path} was altered (sha256 {found.sha256[:12]}…, not {record.sha256[:12]}…)"


def _wrong_structure(store: Path, manifest: Manifest) -> Iterator[str]:
    vocabulary = manifest.check(store)
    if vocabulary.size != manifest.vocab_size or vocabulary.special_ids != manifest.special_ids:
        yield "manifest.json does not describe tokenizer.json"
    for split, counts in manifest.splits.items():
        for prefix in manifest.prefixes(store, split):
            yield from TokenStore(prefix).problems(manifest.vocab_size)
        tokens = ShardedStore(manifest.prefixes(store, split))
        found = replace(
            counts,
            num_documents=tokens.num_documents,
            num_sentences=tokens.num_sentences,
            num_tokens=tokens.num_tokens,
        )
        if found != counts:
            yield f"{store / split} holds {found}, manifest.json says {counts}"


if __name__ == "__main__":
    main()
