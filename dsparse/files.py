"""Files that are there whole or not at all, also after a loss of power, and what they must be."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from dsparse.faults import reach


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file as it was written."""

    num_bytes: int
    sha256: str
    """Hexadecimal."""

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """Reads the whole file."""
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return cls(num_bytes=path.stat().st_size, sha256=digest)


class _Hashing:
    """A binary file that is written front to back, with the checksum of what was meant to go into it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self._num_bytes = 0

    def write(self, data: Any) -> int:
        reach("save.write")
        view = memoryview(data).cast("B")
        self._digest.update(view)
        self._num_bytes += len(view)
        self._stream.write(view)
        return len(view)

    def flush(self) -> None:
        self._stream.flush()

    def record(self) -> FileRecord:
        return FileRecord(num_bytes=self._num_bytes, sha256=self._digest.hexdigest())


def write_hashed(path: Path, write: Callable[[Any], None]) -> FileRecord:
    """Creates a file and returns, when its bytes are on the disk, what it must be.

    The checksum is of the bytes on their way to the disk: whatever comes back otherwise was altered there.

    Args:
        path: to create, or to write over.
        write: gets a stream with `write` and `flush`, which cannot seek.

    Raises:
        OSError: a full disk, no permission.
    """
    with path.open("wb") as stream:
        hashing = _Hashing(stream)
        write(hashing)
        stream.flush()
        os.fsync(stream.fileno())
    return hashing.record()


def write_whole(path: Path, text: str) -> None:
    """Writes a small UTF-8 file so that it is seen whole or not at all, also after a loss of power."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with aside.open("wb") as stream:
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    flush_to_disk(path.parent)


def flush_to_disk(path: Path) -> None:
    """Returns when a file's bytes, or the names in a folder, would outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def leaving(names: Iterable[str]) -> list[str]:
    """Those of the names that a list of a folder's files must not have: they lead, or could lead, out of the folder."""
    return [name for name in names if not _stays_inside(name)]


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        str(path) == name
        and not path.is_absolute()
        and bool(path.parts)
        and ".." not in path.parts
        and not any(character in name for character in "\\\0:")
    )
