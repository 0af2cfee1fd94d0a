"""`manifest.json`: what a checkpoint consists of, to the byte, and what it is of. It is written last.

A folder without a manifest is no checkpoint, so a checkpoint is whole or is none. Nothing of a checkpoint is opened
before it has been compared with its manifest: DeepSpeed's files are pickles, and a damaged one can be anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsparse.errors import CheckpointError
from dsparse.files import FileRecord, leaving, write_whole

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `manifest.json`."""

    files: Mapping[str, FileRecord]
    """Every file of the checkpoint but the manifest itself, by its place in the folder, "/" between parts."""
    about: Mapping[str, Any]
    """What the checkpoint is of, plain JSON: steps, ranks, ZeRO stage, versions."""

    def write(self, folder: Path) -> None:
        """Writes the file, whole or not at all. Call it when every other file is in place."""
        write_whole(folder / MANIFEST, self._text())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Reads the manifest of a checkpoint folder; every byte of it must be as it was written.

        Raises:
            CheckpointError: there is none, or it is damaged, or leads out of the folder.
        """
        path = folder / MANIFEST
        if not folder.is_dir():
            raise CheckpointError(f"Expected a checkpoint at {folder}. Got no such folder.")
        if not path.is_file():
            raise CheckpointError(
                f"Expected a checkpoint at {folder}. Got a folder without {MANIFEST}: its save was cut short, or the "
                "file was deleted, or dsparse did not save it."
            )
        try:
            text = path.read_bytes().decode()
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise CheckpointError(
                    f"Expected {path} of format {FORMAT}. Got format {content['format']!r}: use the dsparse it is of."
                )
            files = {str(name): FileRecord(**record) for name, record in content["files"].items()}
            manifest = cls(files=files, about=dict(content["about"]))
            is_sound = manifest._text() == text
        except CheckpointError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise CheckpointError(
                f"Expected a checkpoint's manifest in {path}. Got a damaged file ({error})."
            ) from None
        if not is_sound:
            raise CheckpointError(f"Expected {path} as it was written. Got a damaged file: its checksum is another.")
        outside = leaving(files)
        if outside:
            raise CheckpointError(
                f"Expected names of files inside the checkpoint in {path}. Got {outside[0]!r}: do not use it."
            )
        return manifest

    def problems(self, folder: Path, names: Iterable[str] | None = None) -> list[str]:
        """What is wrong with files of the folder, every byte compared; a phrase each, empty when nothing is.

        Args:
            folder: of the checkpoint.
            names: the files to compare; None takes all, and looks for others that do not belong there.
        """
        found = []
        for name in self.files if names is None else names:
            problem = _problem(folder, name, self.files[name])
            if problem is not None:
                found.append(f"{folder / name} {problem}")
        return found if names is not None else [*found, *self.strangers(folder)]

    def told(self, *keys: str) -> list[Any]:
        """Values of `about`.

        Raises:
            CheckpointError: one is not there, so dsparse did not save this checkpoint.
        """
        absent = [key for key in keys if key not in self.about]
        if absent:
            raise CheckpointError(f"Expected a manifest that dsparse wrote. Got one that does not say {absent[0]!r}.")
        return [self.about[key] for key in keys]

    def strangers(self, folder: Path) -> list[str]:
        """Files that the manifest does not list: DeepSpeed finds its own by their names, and would open them."""
        known = {*self.files, MANIFEST}
        present = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
        names = (path.relative_to(folder).as_posix() for path in present if not path.name.startswith("."))
        return [f"{folder / name} does not belong there" for name in sorted(names) if name not in known]

    def _text(self) -> str:
        content: dict[str, Any] = {
            "format": FORMAT,
            # As it will be read: JSON has text for keys, in whose order the checksum is taken.
            "about": json.loads(json.dumps(self.about)),
            "files": {name: {"num_bytes": r.num_bytes, "sha256": r.sha256} for name, r in sorted(self.files.items())},
        }
        content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return json.dumps(content, indent=2) + "\n"


def _problem(folder: Path, name: str, record: FileRecord) -> str | None:
    path = folder / name
    # A link inside the checkpoint would lead out of it as well as a name does.
    if any(part.is_symlink() for part in (path, *path.parents) if part != folder and folder in part.parents):
        return "is a link"
    if not path.is_file():
        return "is missing"
    found = FileRecord.of(path)
    if found.num_bytes != record.num_bytes:
        return f"has {found.num_bytes} bytes instead of {record.num_bytes}"
    return None if found.sha256 == record.sha256 else "is damaged: its checksum is another"
