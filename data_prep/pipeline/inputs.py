"""What the input files are, by content: hashed once, and again only when the file system says that one was touched."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.pipeline.progress import Advance, progress
from data_prep.sources.base import Source
from dsparse.errors import UserError
from dsparse.files import write_whole

CACHE = ".inputs.json"
_BLOCK = 1 << 22
_SETTLED_NS = 2_000_000_000
"""A file changed this shortly before it was hashed may change again without another time stamp."""


@dataclass(frozen=True, kw_only=True)
class InputRecord:
    """The files of one source."""

    num_files: int
    num_bytes: int
    sha256: str | None
    """Over names and contents; None where the content is not the user's: installed packages, a dataset of the hub."""


def hash_inputs(sources: Iterable[Source], work: Path, *, num_workers: int) -> list[InputRecord]:
    """Hashes the files of each source, those that were touched since the last time.

    Args:
        sources: in the order of the recipe.
        work: folder that remembers hashes between runs.
        num_workers: threads.

    Raises:
        UserError: a file cannot be read.
    """
    files = [source.files() for source in sources]
    known = _read_cache(work / CACHE)
    stats = {path: _stat_of(path) for paths in files for path in paths}
    touched = [path for path, stat in stats.items() if known.get(str(path), {}).get("stat") != stat]
    if touched:
        total = sum(stats[path][0] for path in touched)
        now_ns = time.time_ns()
        with progress("hashing the input", total) as advance:
            hashes = _hashes_of(touched, advance, num_workers=num_workers)
        for path, sha256 in hashes.items():
            is_settled = now_ns - stats[path][1] > _SETTLED_NS
            known[str(path)] = {"stat": stats[path] if is_settled else None, "sha256": sha256}
        write_whole(work / CACHE, json.dumps(known, indent=1, sort_keys=True) + "\n")
    return [_record_of(paths, stats, known) for paths in files]


def _record_of(paths: list[Path], stats: dict[Path, list[int]], known: dict[str, dict[str, Any]]) -> InputRecord:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path}\n{known[str(path)]['sha256']}\n".encode(errors="surrogateescape"))
    num_bytes = sum(stats[path][0] for path in paths)
    return InputRecord(num_files=len(paths), num_bytes=num_bytes, sha256=digest.hexdigest() if paths else None)


def _stat_of(path: Path) -> list[int]:
    """Size and what changes when a file does."""
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"Expected to be able to read {path}. Got: {error.strerror}.") from None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _hashes_of(paths: list[Path], advance: Advance, *, num_workers: int) -> dict[Path, str]:
    """SHA-256 of files, in threads that end soon after an interruption."""
    stopped, lock = threading.Event(), threading.Lock()

    def hash_of(path: Path) -> str:
        digest = hashlib.sha256()
        try:
            with path.open("rb", buffering=0) as stream:
                while not stopped.is_set() and (block := stream.read(_BLOCK)):
                    digest.update(block)
                    with lock:
                        advance(len(block))
        except PermissionError:
            # Whoever reads it says what is to be done about it; until it can be read, that is what it is.
            return "unreadable"
        return digest.hexdigest()

    with ThreadPoolExecutor(num_workers) as pool:
        try:
            return dict(zip(paths, pool.map(hash_of, paths), strict=True))
        finally:
            stopped.set()


def _read_cache(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    found = content.items() if isinstance(content, dict) else ()
    return {name: one for name, one in found if isinstance(one, dict) and isinstance(one.get("sha256"), str)}
