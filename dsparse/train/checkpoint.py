"""Going on where a run stopped: which checkpoint, whether it belongs to this run, and what of the loop is in it.

The engine saves weights, optimizer, schedule and patterns; the loop adds its own few numbers (`RunState`) as client
state. Randomness needs no saving: batches are a function of the position, dropout is seeded anew at each step.
Each checkpoint also has the record of its run, which is OUTPUT/run.json for people to read, so that a run is never
continued with other numbers than it began with.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsparse.checkpoint import folder
from dsparse.checkpoint.manifest import MANIFEST, Manifest
from dsparse.errors import CheckpointError, UserError
from dsparse.files import write_whole
from dsparse.train.deepspeed_config import MergedRun

CHECKPOINTS = "checkpoints"
RECORD = "run.json"
LAST_GOOD = "last-good"

_CLIENT_KEY = "dsparse_run"
_RECORD_KEY = "dsparse_record"

# What may differ between the two halves of a run without making it another run.
_FREE = (
    "run.deepspeed_config", "run.output", "run.data.store", "run.data.num_workers", "run.train.stop_at_step",
    "run.train.log_every", "run.train.eval_every", "run.train.eval_samples", "run.train.timeout_s",
    "run.train.max_skipped_steps", "run.checkpoint", "run.monitor", "deepspeed.tensorboard", "deepspeed.checkpoint",
    # How a global batch and the state are cut over the ranks: the order of additions, and nothing else.
    "world_size", "origin", "run.train.micro_batch_size", "deepspeed.train_micro_batch_size_per_gpu",
    "deepspeed.gradient_accumulation_steps", "deepspeed.zero_optimization", "deepspeed.zero_allow_untested_optimizer",
    "deepspeed.zero_force_ds_cpu_optimizer",
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
    origin: str | None = None
    """Folder of another run's checkpoint, or of a converted one, that this run went on from."""

    @classmethod
    def of(cls, merged: MergedRun, *, world_size: int, store: dict[str, Any]) -> RunRecord:
        """The record of a merged run."""
        return cls(run=dataclasses.asdict(merged.run), deepspeed=merged.deepspeed, world_size=world_size, store=store)

    def write(self, output: Path) -> None:
        """Writes OUTPUT/run.json, whole or not at all."""
        write_whole(output / RECORD, json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    def to_client_state(self) -> dict[str, Any]:
        """For `engine.save_checkpoint`: a checkpoint says of which run it is, wherever it is taken."""
        return {_RECORD_KEY: json.loads(json.dumps(dataclasses.asdict(self)))}

    def differences(self, checkpoint: Path) -> list[str]:
        """One phrase for each number in which the run that saved a checkpoint is another.

        Raises:
            CheckpointError: its manifest is damaged, with the last one that is whole.
            UserError: it is not of a run of pretrain.py.
        """
        try:
            saved = Manifest.read(checkpoint).about.get("client_state", {}).get(_RECORD_KEY)
        except CheckpointError as error:
            good = next(folder.good_tags(checkpoint.parent), None)
            instead = f"{good} is whole: --checkpoint.resume {LAST_GOOD}" if good else "no other there is whole"
            raise CheckpointError(f"{str(error).rstrip('.')}; {instead}.") from None
        if saved is None:
            raise UserError(f"Expected a checkpoint of pretrain.py. Got {checkpoint}, which does not say of which run.")
        then, now = _flat(saved), _flat(self.to_client_state()[_RECORD_KEY])
        return [
            f"{key} was {then.get(key)!r}, now {now.get(key)!r}"
            for key in sorted(then.keys() | now.keys())
            if then.get(key) != now.get(key) and not any(f"{key}.".startswith(f"{free}.") for free in _FREE)
        ]


def find_checkpoint(resume: str, output: Path) -> Path | None:
    """The folder of the checkpoint to go on from, or None to start afresh.

    With "last-good" it is the last one whether good or not: reading every byte is left to all ranks together.

    Raises:
        UserError: checkpoints in the way of a fresh start, or none where one was named.
    """
    root = output / CHECKPOINTS
    if resume == LAST_GOOD:
        tags = [tag for tag in folder.tags(root) if _is_readable(root / tag)]
        if not tags:
            raise UserError(f"Expected a checkpoint in {root} for checkpoint.resume {LAST_GOOD}. Got none.")
        return (root / tags[0]).absolute()
    latest = _latest(root)
    if resume == "auto":
        return latest or _origin(output)
    if resume == "none":
        if latest is not None:
            raise UserError(
                f"Expected an output without checkpoints. Got {output}, which has {latest.name}: go on from it with "
                "--checkpoint.resume auto, or choose another --output."
            )
        return None
    places = (Path(resume), Path(resume) / CHECKPOINTS, root / resume) if resume else ()
    for place in places:
        if (place / "latest").is_file():
            return _latest(place)
        if (place / MANIFEST).is_file() or (place.is_dir() and place.parent.resolve() == root.resolve()):
            return place.absolute()
    raise UserError(
        f"Expected checkpoint.resume to be auto, last-good, none or a checkpoint. Got {resume!r}, which is neither a "
        f"folder nor a name in {root}."
    )


def require_same_run(record: RunRecord, checkpoint: Path, output: Path) -> None:
    """Raises UserError if the run that wrote the checkpoint is not this one, or OUTPUT already holds another."""
    if not is_own(checkpoint, output) and folder.tags(output / CHECKPOINTS):
        raise UserError(
            f"Expected an --output of its own for a run that goes on from {checkpoint}. Got {output}, which holds a "
            "run: choose another, or go on with that one by --checkpoint.resume auto."
        )
    differences = record.differences(checkpoint)
    if differences:
        raise UserError(
            f"Expected the run that {checkpoint} belongs to. Got other values: {'; '.join(differences)}. "
            "Give the same ones, or another --output."
        )


def is_own(checkpoint: Path, output: Path) -> bool:
    """Whether a checkpoint lies in OUTPUT, and is not another run's."""
    return checkpoint.parent.resolve() == (output / CHECKPOINTS).resolve()


def point_latest_at(checkpoint: Path) -> None:
    """Makes a checkpoint the one that `auto` goes on from; those after it are written over when the run gets there."""
    folder.write_latest(checkpoint.parent, folder.tag_of(checkpoint.name))


def _latest(root: Path) -> Path | None:
    """The checkpoint that `latest` names; where it was not written any more, the one with the most steps."""
    tag = folder.latest_tag(root)
    if tag is None:
        named = folder.tags(root)
        return (root / named[0]).absolute() if named else None
    found = root / folder.locate(root, tag)
    if not found.is_dir():
        others = f"{LAST_GOOD} takes the last whole one" if folder.tags(root) else "there is no other"
        raise UserError(f"Expected the checkpoint that {root / folder.LATEST} names. Got no folder {found}: {others}.")
    return found.absolute()


def _origin(output: Path) -> Path | None:
    """Where a run came from that was ended before its first own checkpoint.

    Raises:
        UserError: it is not there any more; to begin at the first step instead would be another run.
    """
    try:
        origin = json.loads((output / RECORD).read_text(encoding="utf-8")).get("origin")
    except (OSError, ValueError, AttributeError):
        return None
    if origin is None:
        return None
    if not Path(origin).is_dir():
        raise UserError(
            f"Expected the checkpoint that {output} went on from. Got no {origin}; choose another --output."
        )
    return Path(origin)


def _is_readable(checkpoint: Path) -> bool:
    try:
        Manifest.read(checkpoint)
    except CheckpointError:
        return False
    return True


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        key: value
        for name, child in node.items()
        for key, value in _flat(child, f"{prefix}.{name}" if prefix else str(name)).items()
    }
