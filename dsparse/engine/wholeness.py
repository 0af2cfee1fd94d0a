"""Whether a checkpoint is whole, asked by all ranks together: each reads its share, all get the same answer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dsparse.checkpoint import folder
from dsparse.checkpoint.manifest import Manifest
from dsparse.engine.agree import Agreement
from dsparse.engine.world import launched_local_rank, launched_local_size
from dsparse.errors import CheckpointError

NODES = "nodes"
"""Key of a manifest's account of node-local storage: the files of each node, by the number of its first rank."""


def require_whole(root: Path, name: str, agreement: Agreement, *, node_local: bool = False) -> Manifest:
    """Compares every byte of a checkpoint with its manifest. A collective call.

    Args:
        root: folder of the checkpoints.
        name: of the checkpoint's folder.
        agreement: the ranks.
        node_local: each node has files of its own ranks only.

    Returns:
        The manifest.

    Raises:
        CheckpointError: on every rank, naming the files, what is wrong, and an earlier checkpoint that is whole.
    """
    found = _problems(root / name, agreement, node_local=node_local)
    if not found:
        return Manifest.read(root / name)
    good = newest_good(root, agreement, others_than=[name], node_local=node_local)
    instead = (
        "no other checkpoint there is whole"
        if good is None
        else f"{root / good} is whole: go on from it, with pretrain.py by --checkpoint.resume last-good"
    )
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    raise CheckpointError(f"Expected a whole checkpoint. Got: {'; '.join(found[:4])}{more}; {instead}.")


def newest_good(
    root: Path, agreement: Agreement, *, others_than: Iterable[str] = (), node_local: bool = False
) -> str | None:
    """The checkpoint with the most steps of which every byte is as it was written. A collective call."""
    # By the first rank's account: a folder may look different to another machine for a moment.
    for tag in agreement.gather_plain(folder.tags(root))[0]:
        if tag not in others_than and not _problems(root / tag, agreement, node_local=node_local):
            return str(tag)
    return None


def _problems(path: Path, agreement: Agreement, *, node_local: bool) -> list[str]:
    mine: list[str] = []
    try:
        manifest = Manifest.read(path)
        if node_local:
            first_rank = agreement.rank - launched_local_rank()
            names = sorted(manifest.about.get(NODES, {}).get(str(first_rank), manifest.files))
            share, num_shares = launched_local_rank(), launched_local_size()
        else:
            names = sorted(manifest.files)
            share, num_shares = agreement.rank, agreement.num_ranks
        mine = manifest.problems(path, names[share::num_shares])
        if share == 0:
            mine += manifest.strangers(path)
    except (CheckpointError, OSError) as error:
        mine = [str(error).rstrip(".")]
    return list(dict.fromkeys(problem for one in agreement.gather_plain(mine) for problem in one))
