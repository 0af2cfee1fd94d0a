"""What nodes can see differently, and must not: checkpoints and the run's folder."""

from __future__ import annotations

import os
import time
from pathlib import Path

from dsparse.engine.world import launched_world_size, rank, sum_over_ranks, whole_world
from dsparse.errors import UserError
from dsparse.train.checkpoint import RECORD
from dsparse.train.deepspeed_config import MergedRun
from dsparse.train.plan import Plan

_SECONDS_FOR_A_NETWORK_DRIVE = 3.0


def is_storage_apart(merged: MergedRun) -> bool:
    """Whether each node writes checkpoints to a disk of its own (DeepSpeed's setting)."""
    return bool(merged.deepspeed.get("checkpoint", {}).get("use_node_local_storage", False))


def require_same_checkpoint(plan: Plan) -> None:
    """Raises UserError on every rank unless all go on from a checkpoint of the same name, or all begin anew."""
    found = "none" if plan.checkpoint is None else plan.checkpoint.name
    if len(set(whole_world().gather_plain(found))) > 1:
        raise UserError(
            f"Expected to find the same checkpoint on every rank. Got {found} on rank {rank()} and another on others: "
            "name one that all nodes have by --checkpoint.resume, or copy the missing files from node to node."
        )


def require_own_record(output: Path) -> None:
    """Raises UserError on every rank unless each sees the record in OUTPUT that rank 0, or its node's first, has begun.

    A node that does not would write its part of every checkpoint where no other finds it. A folder is read, not a name
    looked up: a network drive answers a look-up from memory, and the answer may be older than the file.
    """
    deadline_s = time.monotonic() + _SECONDS_FOR_A_NETWORK_DRIVE
    while not (sees := output.is_dir() and RECORD in os.listdir(output)) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    num_blind = round(sum_over_ranks([not sees])[0])
    if num_blind:
        raise UserError(
            f"Expected an --output that every node sees. Got {output}, where {num_blind} of {launched_world_size()} "
            "ranks do not find the run: choose a folder on storage that all share, or let each node keep its own part "
            'by "checkpoint": {"use_node_local_storage": true} in the DeepSpeed JSON.'
        )
