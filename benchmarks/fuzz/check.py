"""Whether a run that ended well kept its promise: everything outside the patterns is exactly 0.

Asked twice. Of the live engine, on every rank, after the last save, through DeepSpeed's public calls: weights, masters
and moments. And of the files, as somebody would read them who has DeepSpeed alone: weights and masters.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

import dsparse
from dsparse.checkpoint.patterns import load_state


@contextmanager
def checked(report: Path) -> Iterator[None]:
    """Has each engine that is made in it verified after each save; writes what was seen when it ends without an error.

    Args:
        report: JSON: whether the engine is sparse, optimizer steps taken, updates made, verifications passed.
    """
    # By name: in the package the function hides the module.
    module: Any = importlib.import_module("dsparse.engine.initialize")

    seen: dict[str, Any] = {"is_sparse": None, "num_steps": 0, "num_updates": 0, "num_verified": 0}
    make_sparse, make_dense = module.initialize, module.initialize_dense

    def watched(engine: Any) -> Any:
        save = engine.save_checkpoint

        def save_and_verify(*args: Any, **kwargs: Any) -> Any:
            result = save(*args, **kwargs)
            seen["is_sparse"] = isinstance(engine, dsparse.SparseEngine)
            seen["num_steps"] = engine.global_steps
            if seen["is_sparse"]:
                engine.verify_sparsity()
                seen["num_updates"] = engine.num_pattern_updates
                seen["num_verified"] += 1
            return result

        engine.save_checkpoint = save_and_verify
        return engine

    def initialize(*args: Any, **kwargs: Any) -> Any:
        engine, *others = make_sparse(*args, **kwargs)
        return watched(engine), *others

    def initialize_dense(*args: Any, **kwargs: Any) -> Any:
        return watched(make_dense(*args, **kwargs))

    dsparse.initialize = initialize
    module.initialize_dense = initialize_dense
    yield
    report.write_text(json.dumps(seen))


def problems_of_files(checkpoint: Path, stage: int) -> list[str]:
    """What is not 0 outside the patterns of a checkpoint folder, one phrase for each weight."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    states: list[tuple[str, Any]] = []
    if stage > 0:
        # It draws progress bars.
        with open(os.devnull, "w", errors="replace") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere):
            masters = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
        states.append(("master", masters))
    if stage < 3:
        path = checkpoint / "mp_rank_00_model_states.pt"
        states.append(("weight", torch.load(path, map_location="cpu", weights_only=False)["module"]))
    found = []
    for name, history in load_state(checkpoint).histories.items():
        outside_OI = ~history.pattern.mask()
        for kind, tensors in states:
            num_odd = int((tensors[name][outside_OI] != 0).sum())
            if num_odd:
                found.append(f"{num_odd} entries of the {kind} {name} outside its pattern")
    return found
