"""Finding, with all ranks, the checkpoint to go on from."""

from __future__ import annotations

from pathlib import Path

from dsparse.engine.wholeness import newest_good
from dsparse.engine.world import whole_world
from dsparse.errors import UserError
from dsparse.train.checkpoint import CHECKPOINTS


def find_last_good(output: Path, *, node_local: bool) -> Path:
    """The checkpoint of OUTPUT with the most steps of which every byte is as it was written. A collective call.

    Args:
        output: the run's folder.
        node_local: each node has files of its own ranks only.

    Raises:
        UserError: none is; on every rank.
    """
    root = output / CHECKPOINTS
    tag = newest_good(root, whole_world(), node_local=node_local)
    if tag is None:
        raise UserError(f"Expected a whole checkpoint in {root}. Got none: every one is damaged.")
    return (root / tag).absolute()
