"""`manifest.json`: what a token store holds, by which tokenizer, and the hash of every byte. It is written last.

A folder without a manifest is not a store, so a store is complete or is none. Opening compares sizes and the
tokenizer's hash, which is cheap; data_prep/verify.py compares every byte.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dsparse.data.vocabulary import Vocabulary
from dsparse.errors import UserError
from dsparse.files import FileRecord, leaving, write_whole

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
SPLITS = ("train", "heldout")


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """How large a split is."""

    num_documents: int
    num_sentences: int
    num_tokens: int
    """Word pieces."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `manifest.json`."""

    vocab_size: int
    tokenizer_sha256: str
    special_ids: dict[str, int]
    splits: dict[str, SplitCounts]
    files: dict[str, FileRecord]
    """By name within the store."""
    sources: list[str] = field(default_factory=list)
    """Where the text came from, as it was given."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Everything that decides the store's content, plain JSON; the same arguments make the same store."""

    @classmethod
    def read(cls, store: Path) -> Manifest:
        """Reads a store's manifest.

        Raises:
            UserError: there is no store, it is not complete, or the manifest is not of this version.
        """
        if store.is_file():
            raise UserError(f"Expected a token store, a folder, at {store}. Got a file.")
        if not store.is_dir():
            raise UserError(f"Expected a token store at {store}. Got no such folder; {how_to_make(store)}.")
        path = store / MANIFEST
        if not path.is_file():
            raise UserError(
                f"Expected a token store at {store}. Got a folder without {MANIFEST}, so it is none or was never "
                f"finished; {how_to_make(store)}."
            )
        try:
            content = json.loads(path.read_bytes())
            version = content.pop("format_version")
            if version != FORMAT_VERSION:
                raise UserError(
                    f"Expected {path} of format version {FORMAT_VERSION}. Got version {version}; "
                    "make the store again with data_prep/prepare.py --overwrite."
                )
            content["splits"] = {name: SplitCounts(**counts) for name, counts in content["splits"].items()}
            content["files"] = {name: FileRecord(**record) for name, record in content["files"].items()}
            manifest = cls(**content)
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"Expected {path} to be a token store's manifest. Got something else ({error!r}); "
                "make the store again with data_prep/prepare.py --overwrite."
            ) from None
        outside = leaving(manifest.files)
        if outside:
            raise UserError(f"Expected names of files inside the store in {path}. Got {outside[0]!r}: do not use it.")
        return manifest

    def write(self, store: Path) -> None:
        """Writes `manifest.json` atomically. Call it when every other file is in place."""
        content = {"format_version": FORMAT_VERSION, **asdict(self)}
        write_whole(store / MANIFEST, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def check(self, store: Path) -> Vocabulary:
        """Compares sizes of all files and the tokenizer's hash with what was written.

        Returns:
            The store's vocabulary.

        Raises:
            UserError: a file is missing, has another size, or the tokenizer is another one.
        """
        for name, record in self.files.items():
            path = store / name
            if not path.is_file():
                raise UserError(f"Expected {path}, which {MANIFEST} lists. Got no such file; {how_to_make(store)}.")
            num_bytes = path.stat().st_size
            if num_bytes != record.num_bytes and name != TOKENIZER:
                state = "truncated" if num_bytes < record.num_bytes else "altered"
                raise UserError(
                    f"Expected {path} to hold {record.num_bytes} bytes. Got {num_bytes}: it is {state}; "
                    f"{how_to_make(store)} --overwrite."
                )
        vocabulary = Vocabulary.read(store / TOKENIZER)
        self.require_tokenizer(vocabulary, store / TOKENIZER)
        return vocabulary

    def require_tokenizer(self, vocabulary: Vocabulary, path: Path) -> None:
        """Raises UserError unless the store was made by this tokenizer.

        Args:
            vocabulary: as read from `path`.
            path: to be named in the message.
        """
        if vocabulary.sha256 != self.tokenizer_sha256:
            raise UserError(
                f"Expected the tokenizer that made the store, sha256 {self.tokenizer_sha256[:16]}…. "
                f"Got another one in {path}, sha256 {vocabulary.sha256[:16]}…: its ids mean other words; "
                "put the original file back or make the store again with data_prep/prepare.py --tokenizer."
            )


def how_to_make(store: Path) -> str:
    """The command that makes a store, for error messages."""
    out = shlex.quote(str(store))
    return f"make it with: python data_prep/prepare.py --source installed-docs --vocab-size 8192 --out {out}"
