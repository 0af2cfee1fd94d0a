"""TensorBoard event files of a session that was cut off: what it logged after the last checkpoint is void.

A resumed run logs those steps again. TensorBoard's own mark for that drops every tag from a step on, also those that
DeepSpeed counts in samples; so the old files are written anew without the void events instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_IN_SAMPLES = "Train/Samples/"
"""What DeepSpeed itself logs has the number of samples for its step."""


def event_files(folder: Path) -> list[Path]:
    """Event files under a folder, oldest first."""
    return sorted(folder.rglob("events.out.tfevents.*"))


def forget_events_after(files: Iterable[Path], *, step: int, samples_per_step: int) -> None:
    """Rewrites event files without what was logged after an optimizer step; 0 removes them.

    Args:
        files: that nobody writes to any more.
        step: the last optimizer step that counts.
        samples_per_step: sequences of a global batch, for DeepSpeed's own tags.
    """
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    for path in files:
        if step == 0:
            path.unlink()
            continue
        aside = path.with_name(f".{path.name}")
        with aside.open("wb") as stream:
            writer = RecordWriter(stream)
            # A last record that was cut off is where the loader ends.
            for record in RawEventFileLoader(str(path)).Load():
                if _counts(Event.FromString(record), step, samples_per_step):
                    writer.write(record)
            writer.flush()
        os.replace(aside, path)


def _counts(event: Any, step: int, samples_per_step: int) -> bool:
    tags = [value.tag for value in event.summary.value]
    in_samples = bool(tags) and all(tag.startswith(_IN_SAMPLES) for tag in tags)
    return event.step <= (step * samples_per_step if in_samples else step)
