"""A store appears whole or not at all: it is made in a hidden folder beside its place, which is renamed at the end.

What an interrupted run left in the hidden folder is cleared by the next one. Two runs never share it: the folder is
locked while it is in use.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsparse.data.manifest import MANIFEST, SPLITS, TOKENIZER
from dsparse.errors import UserError
from dsparse.files import flush_to_disk

# Also the unnumbered pairs of older stores, which are replaced like any other.
_STORE_FILE = re.compile(rf"{MANIFEST}|{TOKENIZER}|({'|'.join(SPLITS)})(-\d+)?\.(bin|idx)")


def holds_only_a_store(folder: Path) -> bool:
    """Whether nothing would be lost but a token store if the folder were replaced; true of an empty one."""
    return folder.is_dir() and all(_STORE_FILE.fullmatch(path.name) for path in folder.iterdir())


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder to make a store in; it takes the place of `out` if the context ends without an error.

    After an error the folder is removed, and so are the folders above it that had to be made.

    Args:
        out: where the store is to be; what is there is replaced, so it must hold nothing but a store.

    Raises:
        UserError: another process is making a store there.
    """
    out = out.resolve()
    made = _make_parents(out.parent)
    staging, old = (out.with_name(f".{out.name}.{what}") for what in ("partial", "old"))
    try:
        staging.mkdir(exist_ok=True)
        lock = os.open(staging, os.O_RDONLY)
        try:
            _lock(lock, out)
            if not staging.is_dir() or os.fstat(lock).st_ino != staging.stat().st_ino:
                raise UserError(f"Expected to be alone in making {out}. Got another prepare.py that has just done it.")
            try:
                _remove(old)
                _clear(staging)
                yield staging
                _publish(staging, out, old)
            finally:
                _remove(staging)
        finally:
            os.close(lock)
    except BaseException:
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise


def _make_parents(folder: Path) -> list[Path]:
    """Makes a folder and those above it; returns the ones that were not there, the deepest first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Expected to be able to make the folder {folder}. Got: {error.strerror}.") from None
    return missing


def _lock(descriptor: int, out: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"Expected to be alone in making {out}. Got another prepare.py at it; wait for it.") from None


def _publish(staging: Path, out: Path, old: Path) -> None:
    flush_to_disk(staging)
    if out.exists():
        os.replace(out, old)
    os.replace(staging, out)
    flush_to_disk(out.parent)
    _remove(old)


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        _remove(path) if path.is_dir() else path.unlink()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
