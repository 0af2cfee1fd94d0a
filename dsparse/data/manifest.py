"""`manifest.json`: what a store is made of, and proof that its files are the ones that were written.

It is written last, so a folder without one is not a store but the rest of an interrupted preparation.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsparse.errors import UserError

FILE_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """Size of a split."""

    documents: int
    sentences: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """What a file must be."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of manifest.json."""

    vocab_size: int
    tokenizer_sha256: str
    special_ids: Mapping[str, int]
    """Ids of [PAD], [UNK], [CLS], [SEP] and [MASK] by token."""
    splits: Mapping[str, SplitCounts]
    """By split: "train", "heldout"."""
    files: Mapping[str, FileRecord]
    """By file name, relative to the store."""
    arguments: Mapping[str, Any]
    """What the store was made from: sources, seed and so on, as plain values."""
    format: int = FORMAT

    def write(self, store: Path) -> None:
        """Writes manifest.json, whole or not at all."""
        aside = store / (FILE_NAME + ".tmp")
        with aside.open("w", encoding="utf8") as file:
            json.dump(dataclasses.asdict(self), file, indent=2, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(store / FILE_NAME)

    @classmethod
    def read(cls, store: str | Path) -> Manifest:
        """Reads manifest.json.

        Raises:
            UserError: there is no store, its preparation did not finish, or the file is not what it should be.
        """
        path = Path(store) / FILE_NAME
        make = f"python data_prep/prepare.py --source installed-docs --out {store}"
        if not path.is_file():
            raise UserError(f"Expected a token store in {store}. There is no {FILE_NAME}; make the store with: {make}")
        try:
            content = json.loads(path.read_text(encoding="utf8"))
            if content["format"] != FORMAT:
                raise UserError(
                    f"Expected a store of format {FORMAT}. {path} says {content['format']}; make it again: {make}"
                )
            content["splits"] = {name: SplitCounts(**one) for name, one in content["splits"].items()}
            content["files"] = {name: FileRecord(**one) for name, one in content["files"].items()}
            return cls(**content)
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"Expected a manifest in {path}. It is damaged ({error}); make the store again: {make}"
            ) from None

    def check_sizes(self, store: str | Path) -> None:
        """Raises a UserError that names the first file that is missing, of another size, or another tokenizer.

        Cheap: only the tokenizer is read. `data_prep/verify.py` reads every byte.
        """
        for name, record in self.files.items():
            path = file_in(store, name)
            if not path.is_file():
                raise UserError(f"Expected {path}, which {FILE_NAME} lists. It is missing; make the store again.")
            if path.stat().st_size != record.num_bytes:
                raise UserError(
                    f"Expected {record.num_bytes} bytes in {path}. Got {path.stat().st_size}: the file is truncated or "
                    "was changed; make the store again."
                )
        found = sha256_of(Path(store) / TOKENIZER_NAME)
        if found != self.tokenizer_sha256:
            raise UserError(
                f"Expected the tokenizer the store was made with (sha256 {self.tokenizer_sha256[:12]}…). "
                f"{Path(store) / TOKENIZER_NAME} is another (sha256 {found[:12]}…); put the right one back or make the "
                "store again."
            )


def file_in(store: str | Path, name: str) -> Path:
    """Path of a store's file; a name that leads out of the store is refused."""
    if Path(name).name != name or name in ("", ".", ".."):
        raise UserError(f"Expected plain file names in {Path(store) / FILE_NAME}. Got {name!r}.")
    return Path(store) / name


def record_of(path: Path) -> FileRecord:
    """Size and sha256 of a file."""
    return FileRecord(num_bytes=path.stat().st_size, sha256=sha256_of(path))


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"Expected to read {path}. {error.strerror}.") from None
