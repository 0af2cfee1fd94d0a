"""Out of the engine into a plain state dict."""

from __future__ import annotations

import torch
from deepspeed import zero
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor

from dsparse.engine.fragments import wrapper_slices
from dsparse.layout.packed import unpack
from dsparse.pattern.block_pattern import BlockPattern


@torch.no_grad()
def to_dense_state_dict(engine: DeepSpeedEngine) -> dict[str, Tensor]:
    """The whole model as an ordinary state dict, zeros at inactive weights.

    A collective call: every rank must make it, and every rank gets the result.

    Returns:
        Tensors on the CPU by the names of the module's `state_dict`: fp32 master values for trained parameters, the
        parameters' own dtype for others and for buffers. Names of tied parameters share one tensor.
    """
    stage = engine.zero_optimization_stage()
    masters = {} if stage else _stage_0_masters(engine)
    parameters = dict(engine.module.named_parameters())
    patterns = {id(parameters[name]): pattern for name, pattern in getattr(engine, "patterns", {}).items()}
    done: dict[int, Tensor] = {}
    result: dict[str, Tensor] = {}
    for name, value in engine.module.state_dict(keep_vars=True).items():
        if id(value) not in done:
            full = _full_value(value, masters, stage)
            if id(value) in patterns:
                full = _dense(full, patterns[id(value)])
            done[id(value)] = full
        result[name] = done[id(value)]
    return result


def _dense(stored: Tensor, pattern: BlockPattern) -> Tensor:
    """[O, I] of a weight as either layout stores it."""
    if tuple(stored.shape) == pattern.shape:
        return stored
    return unpack(stored, pattern.rows.to("cpu"), pattern.cols.to("cpu"), pattern.shape)


def _full_value(value: Tensor, masters: dict[int, Tensor], stage: int) -> Tensor:
    if id(value) in masters:
        return masters[id(value)].detach().view_as(value).to("cpu", copy=True)
    with zero.GatheredParameters([value], enabled=stage == 3 and hasattr(value, "ds_id")):
        shape = value.shape
        full = value.detach().to("cpu", copy=True)
    if value.requires_grad and stage:
        master = safe_get_full_fp32_param(value)
        if master is not None:
            return master.detach().view(shape).to("cpu", copy=True)
    return full


def _stage_0_masters(engine: DeepSpeedEngine) -> dict[int, Tensor]:
    """fp32 values by id of the parameter, where a stage-0 wrapper keeps them apart."""
    return {
        key: master.data.view(-1)[start : start + num]
        for key, (master, start, num) in wrapper_slices(engine.optimizer).items()
    }
