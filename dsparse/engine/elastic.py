"""Going on with other ranks or another ZeRO stage than a checkpoint was saved with.

DeepSpeed's own conversion knows some pairs (its universal checkpoint: stages 1 and 2 among themselves, and 3 with 3)
and fails in others. Here every weight is read whole and each rank takes what it owns of it, so that every pair works by
the same few lines and moves no bit: masters and moments are copied, low-precision weights are the masters rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from deepspeed.runtime.engine import DeepSpeedEngine

from dsparse.checkpoint.manifest import Manifest
from dsparse.engine.fragments import FragmentMap
from dsparse.engine.saved_weights import SavedWeights
from dsparse.errors import CheckpointError

_PLAIN = (int, float, bool, str, type(None), list, tuple)

# What DeepSpeed takes back for itself; the rest is the client's.
_COUNTERS = ("skipped_steps", "global_steps", "dp_world_size", "mp_world_size", "data_sampler", "random_ltd")
_LOSS_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def layout_of(engine: DeepSpeedEngine, fragments: FragmentMap) -> dict[str, Any]:
    """How the engine cuts its state into files, as plain values: equal layouts can read each other's files."""
    return {
        "kind": type(engine.optimizer).__name__,
        "zero_stage": int(engine.zero_optimization_stage()),
        "world_size": int(engine.dp_world_size),
        "precision": "fp16" if engine.fp16_enabled() else "bf16" if engine.bfloat16_enabled() else "fp32",
        "owner_sizes": fragments.owner_sizes(),
    }


def in_words(layout: Mapping[str, Any]) -> str:
    """A layout as a message names it."""
    if "world_size" not in layout:
        return f"nobody in particular ({layout['kind']})"
    packed = ", packed" if layout.get("weights") == "packed" else ""
    return f"{layout['world_size']} ranks at ZeRO stage {layout['zero_stage']} in {layout['precision']}{packed}"


def about_optimizer(engine: DeepSpeedEngine) -> dict[str, Any]:
    """What an elastic load needs beside weights and moments, as plain values."""
    optimizer: Any = engine.optimizer
    groups = [
        {key: value for key, value in group.items() if key != "params" and isinstance(value, _PLAIN)}
        for group in optimizer.param_groups
    ]
    about: dict[str, Any] = {"parameter_groups": groups, "loss_scale": _loss_scale(optimizer)}
    if engine.zero_optimization_stage() == 0:
        members = getattr(optimizer, "fp16_groups", None) or [group["params"] for group in optimizer.param_groups]
        about["parameter_names"] = [[engine.param_names[one] for one in group] for group in members]
    return about


@torch.no_grad()
def load_elastically(
    engine: DeepSpeedEngine, fragments: FragmentMap, saved: SavedWeights, manifest: Manifest, options: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Fills an engine from a checkpoint of any number of ranks and any ZeRO stage.

    Args:
        engine: of the same model.
        fragments: of all its trained weights.
        saved: the weights of a checkpoint that has been found whole, as the engine stores them.
        manifest: of it.
        options: as given to `load_checkpoint`.

    Returns:
        Path and client state, as DeepSpeed's `load_checkpoint` does.

    Raises:
        CheckpointError: naming what does not fit.
    """
    if options["custom_load_fn"] is not None:
        raise CheckpointError("Expected no custom_load_fn with a checkpoint of other ranks. Got one; convert it first.")
    states = saved.model_states
    _restore_weights(engine, fragments, saved, options)
    _restore_others(engine, fragments, states, is_strict=options["load_module_strict"])
    taken = {"module"}
    if not options["load_module_only"]:
        if options["load_optimizer_states"]:
            _restore_optimizer(engine, manifest.about)
        if options["load_lr_scheduler_states"] and engine.lr_scheduler is not None:
            engine.lr_scheduler.load_state_dict(states["lr_scheduler"])
        engine.global_steps = states["global_steps"]
        engine.global_samples = states.get("global_samples", engine.global_steps * engine.train_batch_size())
        engine.skipped_steps = states["skipped_steps"]
        taken |= set(_COUNTERS)
    taken |= {"lr_scheduler"} if options["load_lr_scheduler_states"] else set()
    taken |= {"optimizer"} if options["load_optimizer_states"] else set()
    return str(saved.model_file), {key: value for key, value in states.items() if key not in taken}


def _restore_weights(
    engine: DeepSpeedEngine, fragments: FragmentMap, saved: SavedWeights, options: Mapping[str, Any]
) -> None:
    shapes = {n: tuple(getattr(weight, "ds_shape", weight.shape)) for n, weight in engine.module.named_parameters()}
    wanted = {name: shape for name, shape in shapes.items() if name in fragments}
    # What was trained then and is not now comes with the others.
    there = {name: saved.shape(name) for name in saved.names() if name in wanted or name not in shapes}
    odd = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
    if odd and (options["load_module_strict"] or any(name in wanted and name in there for name in odd)):
        raise CheckpointError(
            f"Expected a checkpoint of the same model. It differs in {len(odd)} weights, the first {odd[0]!r}: "
            f"checkpoint {there.get(odd[0], 'without it')}, run {wanted.get(odd[0], 'without it')}."
        )
    with_moments = options["load_optimizer_states"] and not options["load_module_only"]
    for name in wanted.keys() & there.keys():
        fragments.restore(name, saved.read(name), with_moments=with_moments)


def _restore_others(
    engine: DeepSpeedEngine, fragments: FragmentMap, states: Mapping[str, Any], *, is_strict: bool
) -> None:
    """Buffers, and weights that the optimizer does not have."""
    module = states["module"]
    frozen = [(name, weight) for name, weight in engine.module.named_parameters() if name not in fragments]
    if frozen and engine.zero_optimization_stage() == 3:
        raise CheckpointError(
            f"Expected no frozen parameters at ZeRO stage 3 with a checkpoint of other ranks. Got {frozen[0][0]!r}; "
            "resume on the ranks and the ZeRO stage it was saved with."
        )
    odd = [name for name, weight in frozen if name not in module or module[name].shape != weight.shape]
    if odd and is_strict:
        raise CheckpointError(f"Expected a checkpoint of the same model. Got none of {odd[0]!r}, or of another shape.")
    for name, tensor in [*frozen, *engine.module.named_buffers()]:
        if name in module and module[name].shape == tensor.shape:
            tensor.data.copy_(module[name])


def _restore_optimizer(engine: DeepSpeedEngine, about: Mapping[str, Any]) -> None:
    optimizer: Any = engine.optimizer
    groups = about["parameter_groups"]
    if len(groups) != len(optimizer.param_groups):
        raise CheckpointError(
            f"Expected {len(optimizer.param_groups)} parameter groups. Got a checkpoint of {len(groups)}."
        )
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        # Lists came of tuples: JSON knows none.
        group.update({key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()})
    scaler = _scaler(optimizer)
    for key, value in (about["loss_scale"] or {}).items():
        if hasattr(scaler, key):
            setattr(scaler, key, value)


def _loss_scale(optimizer: Any) -> dict[str, Any] | None:
    scaler = _scaler(optimizer)
    return None if scaler is None else {key: getattr(scaler, key) for key in _LOSS_SCALE if hasattr(scaler, key)}


def _scaler(optimizer: Any) -> Any:
    """What holds fp16's loss scale: DeepSpeed's wrappers of stage 0 have a record, those of ZeRO an object."""
    return getattr(optimizer, "loss_scale_config", None) or getattr(optimizer, "loss_scaler", None)
