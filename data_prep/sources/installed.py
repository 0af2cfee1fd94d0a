"""`installed-docs` — the docstrings of the standard library and the installed packages, each module a document."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.sources.base import CHUNK_BYTES, EMPTY, Chunk, Document, Item, Skipped, shown
from data_prep.sources.docstrings import docstrings_of, installed_modules
from data_prep.sources.files import InputFile, unreadable
from data_prep.sources.text import prose_of_documentation

# Of a module most is code, which is parsed: a chunk of it takes as long as a longer one of text.
_MODULE_CHUNK_BYTES = CHUNK_BYTES // 4


@dataclass(frozen=True)
class InstalledDocs:
    """The documentation on this machine."""

    label: str
    modules: tuple[InputFile, ...]
    chunk_bytes: int = _MODULE_CHUNK_BYTES
    is_repetitive: bool = True

    @classmethod
    def here(cls, label: str) -> InstalledDocs:
        """That of this interpreter."""
        return cls.of(label, installed_modules())

    @classmethod
    def of(cls, label: str, paths: Iterator[Path]) -> InstalledDocs:
        """That of some modules."""
        return cls(label, tuple(InputFile(path, path.stat().st_size) for path in paths if path.is_file()))

    def files(self) -> list[Path]:
        """None: installing a package does not spoil a store."""
        return []

    def num_bytes(self) -> int:
        """Bytes of all modules."""
        return sum(module.num_bytes for module in self.modules)

    def state(self) -> str:
        """The modules and their sizes, by which they are cut."""
        listed = "\n".join(f"{module.path} {module.num_bytes}" for module in self.modules)
        return hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()

    def chunks(self) -> Iterator[Chunk]:
        """Some modules each."""
        group: list[InputFile] = []
        num_bytes = 0
        for module in self.modules:
            group.append(module)
            num_bytes += module.num_bytes
            if num_bytes >= self.chunk_bytes:
                yield ModuleChunk(tuple(group))
                group, num_bytes = [], 0
        if group:
            yield ModuleChunk(tuple(group))


@dataclass(frozen=True)
class ModuleChunk:
    """Some Python files."""

    modules: tuple[InputFile, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the files."""
        return sum(module.num_bytes for module in self.modules)

    def items(self) -> Iterator[Item]:
        """A document for each module; one without prose in its docstrings is left out."""
        for module in self.modules:
            try:
                source = module.path.read_bytes()
            except OSError as error:
                yield unreadable(error, module.path)
                continue
            text = prose_of_documentation(*docstrings_of(source))
            place = shown(module.path)
            yield Document(place, text) if text else Skipped(EMPTY, place)
