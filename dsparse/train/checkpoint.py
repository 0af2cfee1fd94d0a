"""Going on where a run stopped: which checkpoint, whether it belongs to this run, and what of the loop is in it.

The engine saves weights, optimizer, schedule and patterns; the loop adds its own few numbers (`RunState`) as client
state. Randomness needs no saving: batches are a function of the position, dropout is seeded anew at each step.
`OUTPUT/run.json` records what was run, so that a run is never continued with other numbers than it began with.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsparse.errors import UserError
from dsparse.train.deepspeed_config import MergedRun

CHECKPOINTS = "checkpoints"
RECORD = "run.json"

_CLIENT_KEY = "dsparse_run"

# What may differ between the two halves of a run without changing its weights.
_FREE = (
    "run.deepspeed_config", "run.output", "run.data.store", "run.data.num_workers", "run.train.stop_at_step",
    "run.train.log_every", "run.train.eval_every", "run.train.eval_samples", "run.train.timeout_s", "run.checkpoint",
    "run.monitor", "deepspeed.tensorboard",
)  # fmt: skip


@dataclass(kw_only=True)
class RunState:
    """Where the loop is."""

    step: int = 0
    """Optimizer steps done, skipped ones included."""
    loader: dict[str, Any] | None = None
    """The loader's position after the last batch, its own plain form; None before the first."""
    num_tokens: int = 0
    """Tokens trained on over all ranks, padding included."""
    flops: float = 0.0
    """Training FLOPs of the encoder so far, as the paper counts them."""
    wall_s: float = 0.0
    """Seconds of all sessions so far, from the start of training to the last save."""

    def to_client_state(self) -> dict[str, Any]:
        """For `engine.save_checkpoint`."""
        return {_CLIENT_KEY: dataclasses.asdict(self)}

    @classmethod
    def from_client_state(cls, client_state: dict[str, Any], where: Path) -> RunState:
        """From what `engine.load_checkpoint` returns. Raises UserError if the checkpoint is not of such a run."""
        saved = client_state.get(_CLIENT_KEY)
        if not isinstance(saved, dict) or set(saved) != {f.name for f in dataclasses.fields(cls)}:
            raise UserError(f"Expected a checkpoint of pretrain.py. Got {where}, without a step and a data position.")
        return cls(**saved)


@dataclass(kw_only=True, frozen=True)
class RunRecord:
    """What decides a run's weights."""

    run: dict[str, Any]
    deepspeed: dict[str, Any]
    world_size: int
    store: dict[str, Any] = field(default_factory=dict)
    """What identifies the data, by the store's own account."""

    @classmethod
    def of(cls, merged: MergedRun, *, world_size: int, store: dict[str, Any]) -> RunRecord:
        """The record of a merged run."""
        return cls(run=dataclasses.asdict(merged.run), deepspeed=merged.deepspeed, world_size=world_size, store=store)

    def write(self, output: Path) -> None:
        """Writes OUTPUT/run.json, whole or not at all."""
        write_whole(output / RECORD, json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    def differences(self, output: Path) -> list[str]:
        """One phrase for each number in which OUTPUT/run.json is another run; UserError if it is not there."""
        try:
            then = _flat(json.loads((output / RECORD).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(
                f"Expected {output / RECORD}, which says what run its checkpoints are of. Got none; put it back, or "
                "begin anew with another --output."
            ) from None
        except json.JSONDecodeError as error:
            raise UserError(f"Expected JSON in {output / RECORD}. Got a mistake at line {error.lineno}.") from error
        # Through JSON, so that tuples and lists compare equal.
        now = _flat(json.loads(json.dumps(dataclasses.asdict(self))))
        return [
            f"{key} was {then.get(key)!r}, now {now.get(key)!r}"
            for key in sorted(then.keys() | now.keys())
            if then.get(key) != now.get(key) and not any(f"{key}.".startswith(f"{free}.") for free in _FREE)
        ]


def find_checkpoint(resume: str, output: Path) -> Path | None:
    """The folder of the checkpoint to go on from, or None to start afresh.

    Raises:
        UserError: checkpoints in the way of a fresh start, or none where one was named.
    """
    latest = _latest(output / CHECKPOINTS)
    if resume == "auto":
        return latest
    if resume == "none":
        if latest is not None:
            raise UserError(
                f"Expected an output without checkpoints. Got {output}, which has {latest.name}: go on from it with "
                "--checkpoint.resume auto, or choose another --output."
            )
        return None
    for folder in (Path(resume), output / CHECKPOINTS / resume):
        if (folder / "latest").is_file():
            return _latest(folder)
        if folder.is_dir():
            return folder.absolute()
    raise UserError(
        f"Expected checkpoint.resume to be auto, none or a checkpoint. Got {resume!r}, which is neither a folder nor a "
        f"name in {output / CHECKPOINTS}."
    )


def require_same_run(record: RunRecord, checkpoint: Path, output: Path) -> None:
    """Raises UserError if the run that wrote the checkpoint is not this one, or OUTPUT already holds another."""
    if not is_own(checkpoint, output) and ((output / RECORD).exists() or (output / CHECKPOINTS).exists()):
        raise UserError(
            f"Expected an --output of its own for a run that goes on from {checkpoint}. Got {output}, which holds a "
            "run: choose another, or go on with that one by --checkpoint.resume auto."
        )
    differences = record.differences(checkpoint.parent.parent)
    if differences:
        raise UserError(
            f"Expected the run that {checkpoint} belongs to. Got other values: {'; '.join(differences)}. "
            "Give the same ones, or another --output."
        )


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that no reader ever sees half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def is_own(checkpoint: Path, output: Path) -> bool:
    """Whether a checkpoint lies in OUTPUT, and is not another run's."""
    return checkpoint.parent.resolve() == (output / CHECKPOINTS).resolve()


def point_latest_at(checkpoint: Path) -> None:
    """Makes a checkpoint the one that `auto` goes on from; those after it are written over when the run gets there."""
    from dsparse.engine.checkpoint import write_latest

    write_latest(checkpoint.parent, checkpoint.name)


def _latest(folder: Path) -> Path | None:
    """The checkpoint that DeepSpeed's `latest` names; it is written after everything else of a checkpoint."""
    pointer = folder / "latest"
    if not pointer.is_file():
        return None
    found = folder / pointer.read_text(encoding="utf-8").strip()
    if not found.is_dir():
        raise UserError(f"Expected the checkpoint that {pointer} names. Got no folder {found}.")
    return found.absolute()


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        key: value
        for name, child in node.items()
        for key, value in _flat(child, f"{prefix}.{name}" if prefix else str(name)).items()
    }
