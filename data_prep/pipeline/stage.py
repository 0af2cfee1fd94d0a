"""A stage, the key by which its finished work is known, and how it is run or skipped.

The key of a stage is a hash of its inputs, its options, the version of its code and of the libraries that decide its
result. Inputs are contents: where an earlier stage was run again and came to the same files, the later ones are not.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from data_prep.pipeline.code_version import code_version, library_versions
from data_prep.pipeline.inputs import InputRecord
from data_prep.pipeline.parts import SUFFIX, part_paths
from data_prep.pipeline.tally import refuse
from data_prep.pipeline.workers import raise_if_interrupted
from data_prep.recipe import Recipe
from data_prep.sources.base import UNREADABLE, Source
from dsparse.data.manifest import TOKENIZER
from dsparse.errors import UserError
from dsparse.files import FileRecord, write_whole

_RECORD, _KEY = "stage.json", "key.json"
_OURS = re.compile(rf"\d{{6}}\{SUFFIX}|{_RECORD}|{_KEY}|{TOKENIZER}|aside|\..*\.partial")
"""What a stage may have written."""
# What a person sees, and who does the work, decides nothing of the result.
LEFT_OUT = (
    "data_prep.pipeline.command",
    "data_prep.pipeline.progress",
    "data_prep.pipeline.workers",
    "data_prep.pipeline.inputs",
    "data_prep.pipeline.stage",
    "data_prep.recipe",
    "dsparse.errors",
    "dsparse.faults",
    "dsparse.files",
)


class Stage(Protocol):
    """A step from files to files."""

    @property
    def name(self) -> str:
        """Of its folder and its command."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the stages whose files it reads."""

    @property
    def libraries(self) -> tuple[str, ...]:
        """Packages whose version decides its result."""

    def options(self, recipe: Recipe) -> dict[str, Any]:
        """What of the recipe decides its result; plain JSON."""

    def run(self, context: Context) -> dict[str, Any]:
        """Makes the files that are not there yet.

        Returns:
            A summary for later stages and for the report; plain JSON.
        """


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What `stage.json` of a finished stage says."""

    key: dict[str, Any]
    outputs: dict[str, FileRecord]
    summary: dict[str, Any]

    @property
    def digest(self) -> str:
        """Hash of all outputs and the summary: what the next stage depends on."""
        files = {name: record.sha256 for name, record in self.outputs.items()}
        return _digest({"files": files, "summary": self.summary})

    def may_be_mended(self) -> bool:
        """Whether something could not be read that may be readable now: a folder, a disk, a network."""
        return any(UNREADABLE in sums.get("left_out", {}) for sums in self.summary.get("sources", {}).values())

    def is_whole(self, folder: Path) -> bool:
        """Whether every output is there and of the size it had."""
        return all(
            (folder / name).is_file() and (folder / name).stat().st_size == record.num_bytes
            for name, record in self.outputs.items()
        )


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a stage works on."""

    recipe: Recipe
    sources: list[Source]
    inputs: list[InputRecord]
    """Of each source."""

    def folder(self, name: str) -> Path:
        """Where a stage's files lie."""
        return self.recipe.work / name

    def record(self, name: str) -> StageRecord:
        """Of a stage that is done.

        Raises:
            UserError: it is not.
        """
        record = read_record(self.folder(name))
        if record is None or not record.is_whole(self.folder(name)):
            raise UserError(
                f"Expected the stage {name} to be done in {self.recipe.work}. Got none; run data_prep/prepare.py, "
                f"which runs all stages in order, or data_prep/{name}.py first."
            )
        return record

    def parts(self, name: str) -> dict[Path, str]:
        """The parts of a stage that is done, in order, with the hash of each.

        Raises:
            UserError: it is not.
        """
        outputs = self.record(name).outputs
        return {path: outputs[path.name].sha256 for path in part_paths(self.folder(name)) if path.name in outputs}


def read_record(folder: Path) -> StageRecord | None:
    """The record of a finished stage; None if it is not finished, or the record cannot be read."""
    try:
        content = json.loads((folder / _RECORD).read_bytes())
        outputs = {name: FileRecord(**record) for name, record in content["outputs"].items()}
        return StageRecord(key=content["key"], outputs=outputs, summary=content["summary"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def run_stage(stage: Stage, context: Context) -> StageRecord:
    """Runs a stage, or what is missing of it, or nothing.

    Raises:
        UserError: a stage before it is not done, or as the stage says.
    """
    raise_if_interrupted()
    folder = context.folder(stage.name)
    key = key_of(stage, context)
    record = read_record(folder)
    if record is not None and record.key == key and record.is_whole(folder) and not record.may_be_mended():
        refuse_known_problems(record, context.recipe)
        print(f"{stage.name}: done before", flush=True)
        return record
    _begin(folder, key, stage.name)
    t0_s = time.monotonic()
    summary = stage.run(context)
    outputs = {path.name: FileRecord.of(path) for path in sorted(folder.iterdir()) if _is_output(path)}
    record = StageRecord(key=key, outputs=outputs, summary=summary)
    write_whole(folder / _RECORD, json.dumps(asdict(record), indent=1, sort_keys=True) + "\n")
    print(f"{stage.name}: {summary.get('said', 'done')}, {time.monotonic() - t0_s:.1f} s", flush=True)
    for sums in summary.get("sources", {}).values():
        for reason, place, _ in sums["problems"]:
            print(f"  left out, {reason}: {place}", flush=True)
    return record


def refuse_known_problems(record: StageRecord, recipe: Recipe) -> None:
    """Raises UserError if bad input was skipped and is now to be refused."""
    for sums in record.summary.get("sources", {}).values():
        if sums["problems"] and recipe.on_error == "refuse":
            refuse(sums["problems"][0])


def key_of(stage: Stage, context: Context) -> dict[str, Any]:
    """All that decides a stage's result."""
    if stage.reads:
        inputs: Mapping[str, Any] = {name: context.record(name).digest for name in stage.reads}
    else:
        sources = zip(context.sources, context.inputs, strict=True)
        inputs = {
            f"{number} {source.label}": [one.sha256, source.state()] for number, (source, one) in enumerate(sources)
        }
    return {
        "inputs": dict(inputs),
        "options": json.loads(json.dumps(stage.options(context.recipe))),
        "code": code_version(*modules_of(stage), left_out=LEFT_OUT),
        "libraries": library_versions(stage.libraries),
    }


def modules_of(stage: Stage) -> tuple[str, ...]:
    """The modules that decide a stage's result, with what they import; the first stage is handed its sources."""
    # By name: run as a command, a stage is of the module __main__.
    own = f"data_prep.{stage.name}"
    return (own,) if stage.reads else (own, "data_prep.sources.parse")


def _begin(folder: Path, key: dict[str, Any], name: str) -> None:
    """Keeps what an interrupted run with the same key has made, and clears everything else."""
    try:
        before = json.loads((folder / _KEY).read_bytes())
    except (OSError, ValueError):
        before = None
    if before == key:
        (folder / _RECORD).unlink(missing_ok=True)
        return
    if isinstance(before, dict):
        changed = ", ".join(what for what in key if before.get(what) != key[what])
        print(f"{name}: made anew, for its {changed} changed", flush=True)
    _clear(folder)
    write_whole(folder / _KEY, json.dumps(key, indent=1, sort_keys=True) + "\n")


def require_ours(folder: Path) -> None:
    """Raises UserError if a folder holds what no stage writes: it is not to be emptied."""
    foreign = [path.name for path in folder.iterdir() if not _OURS.fullmatch(path.name)] if folder.is_dir() else []
    if foreign or (folder.exists() and not folder.is_dir()):
        what = f"{sorted(foreign)[0]!r} in it" if foreign else "something else"
        raise UserError(f"Expected {folder} to be new, or made by a stage. Got {what}; give another --work.")


def _clear(folder: Path) -> None:
    """Makes a stage's folder, or empties it; the key goes last.

    Raises:
        UserError: it holds something else.
    """
    require_ours(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in [path for path in folder.iterdir() if path.name != _KEY]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    (folder / _KEY).unlink(missing_ok=True)


def _is_output(path: Path) -> bool:
    return path.is_file() and path.name not in (_RECORD, _KEY) and not path.name.startswith(".")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
