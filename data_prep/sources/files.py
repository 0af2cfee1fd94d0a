"""Finds the files of a source."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.sources.base import UNREADABLE, Problem, shown
from dsparse.errors import UserError

COMPRESSED_SUFFIXES = (".bz2", ".gz", ".zst")
_PART_OF_DUMP = re.compile(r"-p\d+p\d+$")


@dataclass(frozen=True)
class InputFile:
    """A file and its length when it was found."""

    path: Path
    num_bytes: int


@dataclass(frozen=True)
class Inputs:
    """The files of a source in order, and what could not be looked into."""

    files: tuple[InputFile, ...]
    problems: tuple[Problem, ...] = ()

    def state(self) -> str:
        """What could not be looked into; it takes a place among what is cut, so it decides the cuts."""
        return "\n".join(f"{problem.reason}: {problem.place}" for problem in self.problems)

    def paths(self) -> list[Path]:
        """The files."""
        return [file.path for file in self.files]

    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.num_bytes for file in self.files)


class OfFiles:
    """What every source of files answers in the same way."""

    inputs: Inputs

    def files(self) -> list[Path]:
        """Every file in order."""
        return self.inputs.paths()

    def num_bytes(self) -> int:
        """Bytes of all files as they lie on disk."""
        return self.inputs.num_bytes()

    def state(self) -> str:
        """What could not be listed."""
        return self.inputs.state()


def find_inputs(spec: str, place: Path, suffixes: Sequence[str]) -> Inputs:
    """The file at a place, whatever its name, or the files below it, sorted by path.

    Hidden files and folders are left out: a store being made in this very folder is one. Links are followed, and a
    folder is entered once, however many lead to it.

    Args:
        spec: the --source, for messages.
        place: a file or folder.
        suffixes: how the names of files begin to end: ".txt" stands for .txt.gz, .txt.bz2 and .txt.zst, too.

    Raises:
        UserError: there is nothing, or no file with such a name.
    """
    if place.is_file():
        return Inputs((InputFile(place, place.stat().st_size),))
    if not place.is_dir():
        raise UserError(f"Expected a file or folder in --source {spec}. Got nothing at {place}; check the path.")
    files, problems = [], []
    for found in _below(place, suffixes):
        if isinstance(found, Problem):
            problems.append(found)
        else:
            files.append(found)
    if not files and not problems:
        names = ", ".join("*" + suffix for suffix in suffixes)
        raise UserError(
            f"Expected files named {names}, perhaps with {', '.join(COMPRESSED_SUFFIXES)} behind it, in --source "
            f"{spec}. Got none in {place}; check the path and the names."
        )
    return Inputs(tuple(sorted(files, key=lambda file: file.path)), tuple(problems))


def inner_suffix(path: Path) -> str:
    """The ending of the name below that of a compression: ".txt" for a.TXT.gz.

    Of a dump given out in parts it is what stands before the numbers: ".xml" for a.xml-p1p41242.bz2.
    """
    if path.suffix.lower() in COMPRESSED_SUFFIXES:
        path = path.with_suffix("")
    return _PART_OF_DUMP.sub("", path.suffix.lower())


def unreadable(error: OSError, path: Path | None = None) -> Problem:
    """The problem of a file or folder that the system does not open or read."""
    name = path if path is not None else Path(os.fsdecode(error.filename))
    reason = error.strerror or str(error) or type(error).__name__
    return Problem(UNREADABLE, shown(name), f"make it readable or take it away ({reason})")


def _below(root: Path, suffixes: Sequence[str]) -> Iterator[InputFile | Problem]:
    errors: list[OSError] = []
    entered: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=errors.append):
        # What os.walk cannot list it reports and passes over: silence here would be a corpus that lacks a folder.
        yield from _drained(errors)
        here = os.stat(folder)
        is_known = (here.st_dev, here.st_ino) in entered
        entered.add((here.st_dev, here.st_ino))
        folders[:] = [] if is_known else sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not is_known and not name.startswith(".") and inner_suffix(path) in suffixes:
                yield from _file(path)
    yield from _drained(errors)


def _file(path: Path) -> Iterator[InputFile | Problem]:
    try:
        status = path.stat()
    except OSError as error:
        yield unreadable(error, path)
    else:
        # A pipe would be waited for without end.
        if stat.S_ISREG(status.st_mode):
            yield InputFile(path, status.st_size)


def _drained(errors: list[OSError]) -> Iterator[Problem]:
    while errors:
        yield unreadable(errors.pop(0))
