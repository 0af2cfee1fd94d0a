"""The run's folder: held by one session at a time, begun or gone on with, and left as it was by one that never began.

OUTPUT/run.json         what decides the run's weights
OUTPUT/metrics.jsonl    its record
OUTPUT/tensorboard/     the same for TensorBoard
OUTPUT/checkpoints/     what it can go on from
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from dsparse.checkpoint.folder import tidy
from dsparse.errors import UserError
from dsparse.train.checkpoint import CHECKPOINTS, RECORD, RunRecord, is_own, point_latest_at
from dsparse.train.events import forget_events_after
from dsparse.train.metrics import adopt_rows, forget_rows_after


def require_folder(output: Path) -> None:
    """Raises UserError where OUTPUT cannot be a folder; writes nothing."""
    try:
        is_name = b"\0" not in str(output).encode()
    except UnicodeEncodeError:  # bytes typed that are no UTF-8: torch could not read its checkpoints there
        is_name = False
    if not is_name:
        raise UserError(f"Expected --output to be the name of a folder, in UTF-8. Got {str(output)!r}.")
    for path in (output, *output.parents):
        if path.exists():
            if not path.is_dir():
                raise UserError(f"Expected --output to be a folder. Got {output}, but {path} is a file.")
            return


@contextmanager
def held(output: Path) -> Iterator[None]:
    """Makes OUTPUT and holds it for this process; a folder in which no run was begun is removed again after an error.

    Raises:
        UserError: another process holds it, or it cannot be made.
    """
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    try:
        output.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(output, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"Expected to be able to write to --output {output}. Got: {error.strerror}.") from error
    try:
        _lock(descriptor, output)
        yield
    except BaseException:
        if output in made and not (output / RECORD).exists():
            shutil.rmtree(output, ignore_errors=True)
            _remove_empty(made[1:])
        raise
    finally:
        os.close(descriptor)


def continue_record(
    output: Path, record: RunRecord, *, checkpoint: Path | None, step: int, old_events: Sequence[Path]
) -> None:
    """Brings OUTPUT to where the run stands: what an earlier session recorded beyond it is void.

    Args:
        output: the run's folder.
        record: of this run.
        checkpoint: that it goes on from; None begins anew.
        step: optimizer steps already done.
        old_events: event files of earlier sessions.
    """
    tidy(output / CHECKPOINTS)
    if checkpoint is not None and not is_own(checkpoint, output):
        # First, so that a session killed right after goes on from the same place.
        record = replace(record, origin=str(checkpoint))
        record.write(output)
        adopt_rows(output, checkpoint.parent.parent, step)
    elif checkpoint is not None:
        point_latest_at(checkpoint)
    forget_rows_after(output, step)
    forget_events_after(old_events, step=step, samples_per_step=record.run["train"]["global_batch_size"])
    record.write(output)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Removes folders, the innermost first, as far as nobody has put anything into them meanwhile."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _lock(descriptor: int, output: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"Expected an --output that no other run writes to. Got {output}, which one holds: wait for it, or choose "
            "another folder."
        ) from None
