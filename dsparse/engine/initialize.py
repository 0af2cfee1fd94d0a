"""`dsparse.initialize`: in the place of `deepspeed.initialize`, a `SparseEngine` where the JSON asks for one."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any

import deepspeed
import torch
from deepspeed import comm as dist
from deepspeed import zero
from deepspeed.accelerator import get_accelerator
from deepspeed.constants import TORCH_DISTRIBUTED_DEFAULT_PORT
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.tensor_parallel.init_utils import load_ds_config
from torch import nn

from dsparse.engine.builds import await_builds
from dsparse.engine.compatibility import (
    check_call,
    check_config,
    check_optimizer,
    check_parameters,
    warn_of_untested_version,
)
from dsparse.engine.config import (
    BLOCK_KEY,
    SparsityConfig,
    parse_sparsity_block,
    require_no_misspelt_block,
    settings_without_effect,
)
from dsparse.engine.engine import SparseEngine
from dsparse.engine.world import launched_local_rank, launched_rank
from dsparse.errors import UserError
from dsparse.layout.masked import MaskedWeight, zero_outside
from dsparse.models.selection import check_blocks_divide, select_weights
from dsparse.pattern.block_pattern import BlockPattern
from dsparse.pattern.budget import erk_budget, uniform_budget
from dsparse.schedule import num_moved, sparse_learning_rate_factor

logger = logging.getLogger(__name__)

_PASSED_ON = (
    "args", "optimizer", "model_parameters", "training_data", "lr_scheduler", "dist_init_required", "collate_fn",
)  # fmt: skip
"""Arguments of `initialize` that the engine takes as they are."""

_WARMUP_SCHEDULERS = ("WarmupLR", "WarmupDecayLR", "WarmupCosineLR")


def initialize(
    args: Any = None,
    model: nn.Module | None = None,
    optimizer: Any = None,
    model_parameters: Any = None,
    training_data: torch.utils.data.Dataset | None = None,
    lr_scheduler: Any = None,
    distributed_port: int = TORCH_DISTRIBUTED_DEFAULT_PORT,
    mpu: Any = None,
    dist_init_required: bool | None = None,
    collate_fn: Callable[..., Any] | None = None,
    config: str | dict[str, Any] | None = None,
    mesh_param: Any = None,
    config_params: str | dict[str, Any] | None = None,
) -> tuple[deepspeed.DeepSpeedEngine, Any, Any, Any]:
    """Takes the place of `deepspeed.initialize`: same arguments, same return value.

    With a "dynamic_sparsity" block in the DeepSpeed configuration the selected weights of `model` are made sparse in
    place and the engine is a `SparseEngine`. Without one this is `deepspeed.initialize`, untouched.

    Returns:
        (engine, optimizer, training dataloader, learning-rate scheduler).

    Raises:
        UserError: the block, or what it asks for together with this model and DeepSpeed configuration, cannot be.
            Raised before any process group starts and before the model is changed, where that can be known without
            DeepSpeed's engine: not for an optimizer that a callable makes.
    """
    call = {
        "args": args,
        "model": model,
        "optimizer": optimizer,
        "model_parameters": model_parameters,
        "training_data": training_data,
        "lr_scheduler": lr_scheduler,
        "distributed_port": distributed_port,
        "mpu": mpu,
        "dist_init_required": dist_init_required,
        "collate_fn": collate_fn,
        "config": config,
        "mesh_param": mesh_param,
        "config_params": config_params,
    }
    ds_config = find_config(args, config, config_params)
    if ds_config is None or BLOCK_KEY not in ds_config:
        require_no_misspelt_block(ds_config or {})
        return deepspeed.initialize(**call)
    if model is None:
        raise UserError("Expected a model. Got None; pass model=….")
    check_call(model, mpu, mesh_param)
    if isinstance(optimizer, torch.optim.Optimizer):
        check_optimizer(optimizer)
    sparsity = check_sparse_run(ds_config, model)
    ds_config = apply_learning_rate_rule(
        ds_config, sparsity, client_made=optimizer or lr_scheduler, model_parameters=model_parameters
    )
    block = ds_config.pop(BLOCK_KEY)
    warn_of_untested_version()

    await_builds(may_remove=launched_local_rank() == 0)
    zero.partition_parameters.shutdown_init_context()
    dist.init_distributed(
        dist_backend=get_accelerator().communication_backend_name(),
        distributed_port=distributed_port,
        dist_init_required=dist_init_required,
    )
    passed_on = {key: call[key] for key in _PASSED_ON}
    engine = _sparse_engine(model, sparsity, block, config=ds_config, **passed_on)
    zero.partition_parameters.restore_init_context()
    engine._configure_python_gc()
    return engine, engine.optimizer, engine.training_dataloader, engine.lr_scheduler


def _sparse_engine(
    model: nn.Module, sparsity: SparsityConfig, block: Mapping[str, Any], *, config: dict[str, Any], **kwargs: Any
) -> SparseEngine:
    """Makes the model sparse and an engine for it; after an error no mask stays on the model."""
    config_class = DeepSpeedConfig(config)
    weights = select_weights(model, modules=sparsity.modules, exclude=sparsity.exclude)
    patterns = initial_patterns({name: shape_of(weight) for name, weight in weights.items()}, sparsity)
    _warn_of_no_effect(block, sparsity, patterns)
    layouts = {name: _mask(weight, patterns[name]) for name, weight in weights.items()}
    try:
        return SparseEngine(
            model=model,
            config=config,
            config_class=config_class,
            sparsity=sparsity,
            weights=weights,
            patterns=patterns,
            layouts=layouts,
            **kwargs,
        )
    except BaseException:
        for layout in layouts.values():
            layout.release()
        raise


def find_config(args: Any, config: Any, config_params: Any) -> dict[str, Any] | None:
    """The DeepSpeed configuration of a call to `initialize`, read but not changed; None where there is none.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    source = config if config is not None else config_params
    if source is None:
        source = getattr(args, "deepspeed_config", None)
    if source is None or isinstance(source, dict):
        return source
    try:
        return dict(load_ds_config(str(source)))
    except ValueError as error:
        raise UserError(f"Expected a DeepSpeed configuration in JSON at {str(source)!r}. {error}") from None


def check_sparse_run(ds_config: Mapping[str, Any], model: nn.Module) -> SparsityConfig:
    """Everything that can be wrong with a sparse run, found without a process group and without changing the model.

    Args:
        ds_config: DeepSpeed configuration with a "dynamic_sparsity" block.
        model: the model to be made sparse.

    Returns:
        The checked block.

    Raises:
        UserError: saying what is wrong, where, and what to do.
    """
    check_config(ds_config)
    check_parameters(model)
    sparsity = parse_sparsity_block(ds_config[BLOCK_KEY], ds_config.get("scheduler"))
    weights = select_weights(model, modules=sparsity.modules, exclude=sparsity.exclude)
    check_blocks_divide({name: shape_of(weight) for name, weight in weights.items()}, sparsity.block_size)
    return sparsity


def initial_patterns(shapes: Mapping[str, tuple[int, int]], sparsity: SparsityConfig) -> dict[str, BlockPattern]:
    """Random patterns for weights of the given (O, I), a function of names, shapes and settings alone."""
    block = sparsity.block_size
    grids = {name: (rows // block, cols // block) for name, (rows, cols) in shapes.items()}
    budget = erk_budget if sparsity.distribution == "erk" else uniform_budget
    counts = budget(grids, sparsity.density)
    return {
        name: BlockPattern.random_with_count(shape, block=block, num_active=counts[name], seed=sparsity.seed, name=name)
        for name, shape in shapes.items()
    }


def apply_learning_rate_rule(
    ds_config: Mapping[str, Any], sparsity: SparsityConfig, *, client_made: Any = None, model_parameters: Any = None
) -> dict[str, Any]:
    """A copy of the configuration with the learning rate of `sparsity.learning_rate_rule`.

    "paper" takes the configured rate as the dense optimum η(0) and multiplies it by exp(1.969 s² + 0.2905 s).

    Args:
        ds_config: DeepSpeed configuration.
        sparsity: the checked block.
        client_made: an optimizer or scheduler that the caller made, whose rate is not ours to change.
        model_parameters: as given to `initialize`; a group of it may have a rate of its own, which is not either.

    Raises:
        UserError: the rate stands somewhere else than in the JSON.
    """
    result = copy.deepcopy(dict(ds_config))
    if sparsity.learning_rate_rule == "none":
        return result
    factor = sparse_learning_rate_factor(sparsity.sparsity)
    optimizer, scheduler = result.get("optimizer"), result.get("scheduler")
    if client_made is not None or not optimizer or (scheduler and scheduler.get("type") not in _WARMUP_SCHEDULERS):
        raise UserError(
            f'Expected optimizer and {" or ".join(_WARMUP_SCHEDULERS)} in the JSON for learning_rate_rule "paper". '
            f'Got others; multiply the learning rate by {factor:.4g} yourself and set the rule to "none".'
        )
    if isinstance(model_parameters, list | tuple) and any(isinstance(g, dict) and "lr" in g for g in model_parameters):
        raise UserError(
            f'Expected no "lr" in a parameter group for learning_rate_rule "paper". Got one; multiply it by '
            f'{factor:.4g} yourself and set the rule to "none".'
        )
    rates = [("optimizer", optimizer, "lr")]
    if scheduler and scheduler["type"] != "WarmupCosineLR":  # which scales the optimizer's own rate
        rates.append(("scheduler", scheduler, "warmup_max_lr"))
    for section, owner, key in rates:
        rate = owner.get("params", {}).get(key)
        if isinstance(rate, bool) or not isinstance(rate, int | float):
            raise UserError(
                f'Expected a number at {section}.params.{key} for learning_rate_rule "paper". Got {rate!r}; give the '
                "dense optimum."
            )
        if launched_rank() == 0:
            logger.warning(
                "learning_rate_rule paper: %s %g -> %g (times %.4g at sparsity %g)",
                key, rate, rate * factor, factor, sparsity.sparsity,
            )  # fmt: skip
        owner["params"][key] = rate * factor
    return result


def _warn_of_no_effect(
    block: Mapping[str, Any], sparsity: SparsityConfig, patterns: Mapping[str, BlockPattern]
) -> None:
    """Says on the first rank which settings change nothing, alone or with weights of these sizes."""
    phrases = settings_without_effect(block, sparsity)
    if not phrases and sparsity.changes_pattern:
        frozen = [name for name, one in patterns.items() if num_moved(sparsity.drop_fraction, one.num_active) == 0]
        if frozen:
            phrases.append(
                f"drop_fraction = {sparsity.drop_fraction:g} moves no block of {len(frozen)} weights with few active "
                f"blocks, the first {frozen[0]!r} with {patterns[frozen[0]].num_active}: choose a smaller block_size"
            )
    if dist.get_rank() == 0:
        for phrase in phrases:
            logger.warning("no effect of %s.%s", BLOCK_KEY, phrase)


def shape_of(weight: Any) -> tuple[int, int]:
    """(O, I) of a weight, also where `zero.Init` has already partitioned it."""
    rows, cols = getattr(weight, "ds_shape", weight.shape)
    return int(rows), int(cols)


def _mask(weight: nn.Parameter, pattern: BlockPattern) -> MaskedWeight:
    with zero.GatheredParameters([weight], modifier_rank=0, enabled=hasattr(weight, "ds_id")):
        zero_outside(weight.data, pattern)
    return MaskedWeight(weight, pattern)
