"""A checkpoint of no number of ranks and no ZeRO stage: a file per weight and state, as in DeepSpeed's universal ones.

Sparse weights are written dense, with zeros, whichever layout saved them, so that what reads DeepSpeed's form reads
these. What a conversion writes is resumed like any other checkpoint, on any ranks, at any stage and in any layout.

No process group is needed. Beside the model's own weights, one weight's states at a time are held in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dsparse.checkpoint import folder
from dsparse.checkpoint.manifest import Manifest
from dsparse.checkpoint.patterns import FILE_NAME
from dsparse.engine.checkpoint_files import read_data
from dsparse.engine.saved_layout import SavedInLayout
from dsparse.engine.saved_weights import UNIVERSAL, WEIGHTS_FOLDER, SavedWeights
from dsparse.errors import CheckpointError
from dsparse.files import FileRecord, flush_to_disk, leaving, write_hashed

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_MODEL_FILE = "mp_rank_00_model_states.pt"


def convert(source: Path, root: Path, *, follow: Callable[[int, int], None] = lambda done, of: None) -> Path:
    """Writes a checkpoint anew, whole or not at all, under the same tag.

    Args:
        source: folder of a checkpoint.
        root: folder to hold the converted one; made if need be.
        follow: is told how many weights are done, and of how many.

    Returns:
        The folder of the converted checkpoint.

    Raises:
        CheckpointError: the source is damaged, or is converted already, or the place is taken.
    """
    manifest = Manifest.read(source)
    problems = manifest.problems(source)
    if problems:
        raise CheckpointError(f"Expected a whole checkpoint. Got: {'; '.join(problems[:4])}.")
    tag, layout = manifest.told("tag", "layout")
    tag = folder.require_tag(str(tag))
    if layout["kind"] == UNIVERSAL:
        raise CheckpointError(f"Expected a checkpoint as a run saves it. Got {source}, which is converted already.")
    if (root / tag).exists():
        raise CheckpointError(f"Expected no {root / tag}. Got one; choose another folder.")
    is_sparse = FILE_NAME in manifest.files
    saved = SavedInLayout(source, manifest, packed=False) if is_sparse else SavedWeights(source, manifest)
    outside = leaving(f"{WEIGHTS_FOLDER}/{name}/fp32.pt" for name in saved.names())
    if outside:
        raise CheckpointError(f"Expected names of weights in {source}. Got one that leads elsewhere: do not use it.")
    aside = folder.begin(root, tag)
    try:
        files = dict(_write_weights(saved, aside, follow))
        files[_MODEL_FILE] = _write_data(aside / _MODEL_FILE, _model_states(saved, layout["precision"]))
        if is_sparse:
            shutil.copyfile(source / FILE_NAME, aside / FILE_NAME)
            flush_to_disk(aside / FILE_NAME)
            files[FILE_NAME] = manifest.files[FILE_NAME]
        about = {**manifest.about, "layout": {"kind": UNIVERSAL, "precision": layout["precision"], "from": layout}}
        Manifest(files=files, about=about).write(aside)
        folder.publish(root, tag)
    except BaseException:
        folder.abandon(root, tag)
        raise
    if folder.tags(root)[0] == tag:
        folder.write_latest(root, tag)
    return root / tag


def _write_weights(saved: SavedWeights, aside: Path, follow: Callable[[int, int], None]) -> dict[str, FileRecord]:
    files: dict[str, FileRecord] = {}
    names = sorted(saved.names())
    for number, name in enumerate(names, 1):
        place = aside / WEIGHTS_FOLDER / name
        place.mkdir(parents=True)
        weight, shape = saved.read(name), saved.shape(name)
        states: dict[str, Any] = {"fp32": weight.master_N, **weight.moments_N}
        for key, flat_N in states.items():
            content: Any = {"cat_dim": 0, "param": flat_N.reshape(shape).clone()}
            files[f"{WEIGHTS_FOLDER}/{name}/{key}.pt"] = _write_data(place / f"{key}.pt", content)
        if weight.step is not None:
            files[f"{WEIGHTS_FOLDER}/{name}/step.pt"] = _write_data(place / "step.pt", weight.step)
        follow(number, len(names))
    return files


def _model_states(saved: SavedWeights, precision: str) -> dict[str, Any]:
    """DeepSpeed's own states, with the weights whole and without what belongs to ranks."""
    states = dict(saved.model_states)
    module = dict(states["module"])
    # At stage 3 DeepSpeed leaves them empty here; otherwise they are there, in the precision of the run.
    for name in [name for name in saved.names() if tuple(module[name].shape) != saved.shape(name)]:
        module[name] = saved.read(name).master_N.reshape(saved.shape(name)).to(_DTYPES[precision])
    return states | {"module": module, "optimizer": None}


def _write_data(path: Path, content: Any) -> FileRecord:
    record = write_hashed(path, lambda stream: torch.save(content, stream))
    read_data(path, mmap=True)
    return record
