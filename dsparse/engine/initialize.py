"""`dsparse.initialize`: in the place of `deepspeed.initialize`, a `SparseEngine` where the JSON asks for one."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

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
from dsparse.engine.durable import DurableEngine
from dsparse.engine.engine import SparseEngine
from dsparse.engine.learning_rate import apply_learning_rate_rule
from dsparse.engine.world import launched_local_rank
from dsparse.errors import UserError
from dsparse.layout.base import WeightLayout
from dsparse.layout.convert import check_model, pack_linears, unpack_linears
from dsparse.layout.masked import MaskedWeight, zero_outside
from dsparse.models.selection import check_blocks_divide, select_weights
from dsparse.pattern.block_pattern import BlockPattern
from dsparse.pattern.budget import block_budget
from dsparse.schedule import num_moved

logger = logging.getLogger(__name__)

_PASSED_ON = (
    "args", "optimizer", "model_parameters", "training_data", "lr_scheduler", "dist_init_required", "collate_fn",
)  # fmt: skip
"""Arguments of `initialize` that the engine takes as they are."""

_Engine = TypeVar("_Engine", bound=DurableEngine)


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

    passed_on = {key: call[key] for key in _PASSED_ON}
    engine = _construct(
        lambda: _sparse_engine(model, sparsity, block, config=ds_config, **passed_on),
        distributed_port=distributed_port,
        dist_init_required=dist_init_required,
    )
    return engine, engine.optimizer, engine.training_dataloader, engine.lr_scheduler


def initialize_dense(model: nn.Module, *, model_parameters: Any, config: dict[str, Any]) -> DurableEngine:
    """A dense engine with the checkpoints and the guards of a `SparseEngine`, to compare a sparse run with.

    It trains to the same bits as DeepSpeed's own.
    """
    require_no_misspelt_block(config)
    config = copy.deepcopy(config)
    return _construct(
        lambda: DurableEngine(
            args=None,
            model=model,
            model_parameters=model_parameters,
            config=config,
            config_class=DeepSpeedConfig(config),
        )
    )


def _construct(
    make: Callable[[], _Engine],
    *,
    distributed_port: int = TORCH_DISTRIBUTED_DEFAULT_PORT,
    dist_init_required: bool | None = None,
) -> _Engine:
    """Makes an engine in the place and manner of `deepspeed.initialize`."""
    await_builds(may_remove=launched_local_rank() == 0)
    zero.partition_parameters.shutdown_init_context()
    dist.init_distributed(
        dist_backend=get_accelerator().communication_backend_name(),
        distributed_port=distributed_port,
        dist_init_required=dist_init_required,
    )
    engine = make()
    zero.partition_parameters.restore_init_context()
    engine._configure_python_gc()
    return engine


def _sparse_engine(
    model: nn.Module, sparsity: SparsityConfig, block: Mapping[str, Any], *, config: dict[str, Any], **kwargs: Any
) -> SparseEngine:
    """Makes the model sparse and an engine for it; after an error no mask and no packed layer stays in the model."""
    config_class = DeepSpeedConfig(config)
    weights = select_weights(model, modules=sparsity.modules, exclude=sparsity.exclude)
    patterns = initial_patterns({name: shape_of(weight) for name, weight in weights.items()}, sparsity)
    _warn_of_no_effect(block, sparsity, patterns)
    layouts: Mapping[str, WeightLayout]
    if sparsity.layout == "packed":
        layouts = pack_linears(model, patterns, kernel=sparsity.kernel)
    else:
        layouts = {name: _mask(weight, patterns[name]) for name, weight in weights.items()}
    try:
        engine = SparseEngine(
            model=model,
            config=config,
            config_class=config_class,
            sparsity=sparsity,
            weights=weights,
            patterns=patterns,
            layouts=layouts,
            **kwargs,
        )
        _find_kernels(engine)
        return engine
    except BaseException:
        for layout in layouts.values():
            layout.release()
        if sparsity.layout == "packed" and not any(hasattr(weight, "ds_id") for weight in weights.values()):
            unpack_linears(model)  # what stage 3 has partitioned already is of no use in any layout
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
    shapes = {name: shape_of(weight) for name, weight in weights.items()}
    check_blocks_divide(shapes, sparsity.block_size)
    if sparsity.layout == "packed":
        partitioned = [name for name, weight in weights.items() if hasattr(weight, "ds_id")]
        if partitioned:
            raise UserError(
                f"Expected a model made outside of deepspeed.zero.Init for the packed layout. Got {partitioned[0]!r} "
                'partitioned already; make the model without it (stage 3 partitions it later), or choose "masked".'
            )
        check_model(model, weights)
    return sparsity


def initial_patterns(shapes: Mapping[str, tuple[int, int]], sparsity: SparsityConfig) -> dict[str, BlockPattern]:
    """Random patterns for weights of the given (O, I), a function of names, shapes and settings alone."""
    block = sparsity.block_size
    counts = block_budget(shapes, block=block, distribution=sparsity.distribution, density=sparsity.density)
    return {
        name: BlockPattern.random_with_count(shape, block=block, num_active=counts[name], seed=sparsity.seed, name=name)
        for name, shape in shapes.items()
    }


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


def _find_kernels(engine: SparseEngine) -> None:
    """Finds kernels for packed weights before the first step needs them, which may compile them or refuse."""
    mine = engine._agreement.together(lambda: engine.kernels, "finding kernels for packed weights")
    said = engine._agreement.gather_plain(mine)
    odd = [rank for rank, theirs in enumerate(said) if theirs != said[0]]
    if odd and engine.global_rank == 0:
        logger.warning(
            "packed weights are computed by %s on rank 0 and by %s on rank %d: the last bits are other ones there",
            ", ".join(said[0]),
            ", ".join(said[odd[0]]),
            odd[0],
        )


def _mask(weight: nn.Parameter, pattern: BlockPattern) -> MaskedWeight:
    with zero.GatheredParameters([weight], modifier_rank=0, enabled=hasattr(weight, "ds_id")):
        zero_outside(weight.data, pattern)
    return MaskedWeight(weight, pattern)
