"""`manifest.json`: what a token store holds, by which tokenizer, and the hash of every byte. It is written last.

A folder without a manifest is not a store, so a store is complete or is none. Opening compares sizes, the tokenizer's
hash and the manifest's own, which is cheap; data_prep/verify.py compares every byte.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dsparse.data.vocabulary import Vocabulary
from dsparse.errors import UserError
from dsparse.files import FileRecord, leaving, write_whole

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
SPLITS = ("train", "heldout")
SHARD_SUFFIXES = (".bin", ".idx")

_DIGEST = "manifest_sha256"
_REMAKE = "make the store again with data_prep/prepare.py --overwrite"


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """How large a split is."""

    num_documents: int
    num_sentences: int
    num_tokens: int
    """Word pieces."""
    num_bytes: int
    """Of the sentences in UTF-8, without what separates them."""


@dataclass(frozen=True, kw_only=True)
class SourceCounts:
    """What one source has given to the store, both splits together."""

    label: str
    weight: float
    """How often the source was taken, 1 being once."""
    num_documents: int
    num_sentences: int
    num_tokens: int
    num_bytes: int
    """As in `SplitCounts`."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Documents left out, by the reason."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `manifest.json`."""

    vocab_size: int
    tokenizer_sha256: str
    special_ids: dict[str, int]
    splits: dict[str, SplitCounts]
    shards: dict[str, list[str]]
    """The `.bin`/`.idx` pairs of each split in order, by name within the store without suffix."""
    files: dict[str, FileRecord]
    """By name within the store."""
    sources: list[SourceCounts] = field(default_factory=list)
    """Where the text came from."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Everything that decides the store's content, plain JSON; the same recipe makes the same store."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of this project and of the libraries that made the store."""

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
        raw = path.read_bytes()
        try:
            content = json.loads(raw)
            version = content.pop("format_version")
            if version != FORMAT_VERSION:
                raise UserError(
                    f"Expected {path} of format version {FORMAT_VERSION}. Got version {version}; {_REMAKE}."
                )
            digest = content.pop(_DIGEST)
            content["splits"] = {name: SplitCounts(**counts) for name, counts in content["splits"].items()}
            content["sources"] = [SourceCounts(**counts) for counts in content["sources"]]
            content["files"] = {name: FileRecord(**record) for name, record in content["files"].items()}
            manifest = cls(**content)
            is_as_written = manifest.to_text().encode() == raw
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"Expected {path} to be a token store's manifest. Got something else ({error!r}); {_REMAKE}."
            ) from None
        if not is_as_written:
            raise UserError(
                f"Expected {path} as it was written, sha256 of its content {str(digest)[:16]}…. Got another content: "
                f"it was altered; {_REMAKE}."
            )
        manifest._require_shards(path)
        return manifest

    def write(self, store: Path) -> None:
        """Writes `manifest.json` atomically. Call it when every other file is in place."""
        write_whole(store / MANIFEST, self.to_text())

    def to_text(self) -> str:
        """The content of `manifest.json`, its digest included."""
        return with_digest({"format_version": FORMAT_VERSION, **asdict(self)})

    def prefixes(self, store: Path, split: str) -> list[Path]:
        """Paths of the shards of a split without suffix, in order."""
        return [store / name for name in self.shards[split]]

    def _require_shards(self, path: Path) -> None:
        """Raises UserError where shards are not among the files, or files are not inside the store."""
        outside = leaving(self.files)
        if outside:
            raise UserError(f"Expected names of files inside the store in {path}. Got {outside[0]!r}: do not use it.")
        if set(self.shards) != set(self.splits) or not all(self.shards.values()):
            raise UserError(f"Expected {path} to name shards of each split. Got {self.shards}; {_REMAKE}.")
        listed = [f"{name}{suffix}" for names in self.shards.values() for name in names for suffix in SHARD_SUFFIXES]
        unknown = sorted({*listed} ^ {name for name in self.files if name.endswith(SHARD_SUFFIXES)})
        if unknown or len({*listed}) < len(listed):
            which = unknown[0] if unknown else "one that is listed twice"
            raise UserError(f"Expected the shards in {path} to be its .bin and .idx files. Got {which}; {_REMAKE}.")

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


def shard_name(split: str, number: int) -> str:
    """The name of a shard without suffix, `train-00000` the first."""
    return f"{split}-{number:05d}"


def with_digest(content: dict[str, Any]) -> str:
    """JSON of a manifest's content with the sha256 over all of it at the end: any other byte is found.

    Args:
        content: plain JSON, without digest.
    """
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return json.dumps({**content, _DIGEST: digest}, indent=2, ensure_ascii=False) + "\n"
