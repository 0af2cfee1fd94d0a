"""What of DeepSpeed dynamic sparsity works with, and refusals by name for the rest.

Fragments, masters and moments must be where `fragments` looks for them, or a run would go wrong without a sign. So a
setting that moves them elsewhere is refused before any process group starts, and so is an optimizer whose state we do
not know how to mask.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.fused_optimizer import FP16_Optimizer
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

from dsparse.errors import UserError

TESTED_DEEPSPEED_VERSIONS = ("0.19.8",)

MOMENTS = frozenset({"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"})
"""Optimizer state that has one value per weight and is masked."""

_JSON_OPTIMIZERS = ("adam", "adamw", "sgd")
_OPTIMIZER_CLASSES = (
    "torch.optim.adam.Adam",
    "torch.optim.adamw.AdamW",
    "torch.optim.sgd.SGD",
    "deepspeed.ops.adam.fused_adam.FusedAdam",
    "deepspeed.ops.adam.cpu_adam.DeepSpeedCPUAdam",
    "apex.optimizers.fused_adam.FusedAdam",
)

_WRAPPERS = (FP16_Optimizer, FP16_UnfusedOptimizer, DeepSpeedZeroOptimizer, DeepSpeedZeroOptimizer_Stage3)

logger = logging.getLogger(__name__)


def check_config(config: Mapping[str, Any]) -> None:
    """Refuses DeepSpeed settings under which the invariant cannot be kept. Needs no process group.

    Raises:
        UserError: naming every refused setting, in one line.
    """
    zero = _section(config, "zero_optimization")
    fp16, bf16 = _section(config, "fp16"), _section(config, "bf16") or _section(config, "bfloat16")
    refused = {
        "zero_optimization.offload_optimizer.device = nvme": _section(zero, "offload_optimizer").get("device")
        == "nvme",
        "zero_optimization.offload_param.device = nvme": _section(zero, "offload_param").get("device") == "nvme",
        "zero_optimization.offload_optimizer.super_offload": bool(
            _section(zero, "offload_optimizer").get("super_offload")
        ),
        "zero_optimization.offload_optimizer.ratio < 1": _number(zero, "offload_optimizer", "ratio", 1.0) != 1.0,
        "zero_optimization.elastic_checkpoint (checkpoints load on any ranks without it)": bool(
            zero.get("elastic_checkpoint")
        ),
        "zero_optimization.round_robin_gradients": bool(zero.get("round_robin_gradients")),
        "zero_optimization.zenflow": bool(zero.get("zenflow")),
        "zero_optimization.zero_hpz_partition_size > 1": _number(
            config, "zero_optimization", "zero_hpz_partition_size", 1
        )
        != 1,
        "zero_optimization.mics_shard_size": _number(config, "zero_optimization", "mics_shard_size", -1) > 0,
        "zero_optimization.zero_quantized_weights": bool(zero.get("zero_quantized_weights")),
        "zero_optimization.zero_quantized_gradients": bool(zero.get("zero_quantized_gradients")),
        "bf16.bf16_master_weights_and_grads": bool(bf16.get("bf16_master_weights_and_grads")),
        "fp16.fp16_master_weights_and_grads": bool(fp16.get("fp16_master_weights_and_grads")),
        "tensor_parallel.autotp_size > 1": _number(config, "tensor_parallel", "autotp_size", 0) > 1,
        "sequence_parallel_size > 1": config.get("sequence_parallel_size", 1) != 1,
        "expert_parallel": bool(_section(config, "expert_parallel").get("enabled")),
        "hybrid_engine": bool(_section(config, "hybrid_engine").get("enabled")),
        "torch_autocast": bool(_section(config, "torch_autocast").get("enabled")),
        "compile.deepcompile": bool(_section(config, "compile").get("deepcompile")),
        "weight_quantization": bool(config.get("weight_quantization")),
        "checkpoint.writer.decoupled": bool(_section(_section(config, "checkpoint"), "writer").get("decoupled")),
        "checkpoint.load_universal (checkpoints load on any ranks without it)": bool(
            _section(config, "checkpoint").get("load_universal")
        ),
        "optimizer.params.eps = 0 (an inactive weight would become 0 / 0)": _number(
            _section(config, "optimizer"), "params", "eps", 1.0
        )
        == 0,
    }
    names = [name for name, is_set in refused.items() if is_set]
    optimizer = _section(config, "optimizer").get("type")
    if optimizer is not None and str(optimizer).lower() not in _JSON_OPTIMIZERS:
        names.append(f"optimizer.type = {optimizer} (known: Adam, AdamW, SGD)")
    if names:
        raise UserError(f"Dynamic sparsity does not work with {'; '.join(names)}. Change that, or train dense.")


def check_call(model: torch.nn.Module, mpu: Any, mesh_param: Any) -> None:
    """Refuses arguments of `initialize` that ask for model parallelism."""
    if isinstance(model, deepspeed.PipelineModule):
        raise UserError("Dynamic sparsity does not work with pipeline parallelism. Pass the module itself.")
    if mpu is not None or mesh_param is not None:
        raise UserError("Dynamic sparsity does not work with mpu or mesh_param. Use data parallelism with ZeRO.")


def check_parameters(model: torch.nn.Module) -> None:
    """Refuses mixtures of experts: DeepSpeed reduces their gradients over other groups of ranks than we do scores."""
    experts = [name for name, one in model.named_parameters() if not getattr(one, "allreduce", True)]
    if experts:
        raise UserError(
            f"Dynamic sparsity does not work with expert parameters, which not every rank has. Got {experts[0]!r}"
            f"{f' and {len(experts) - 1} more' if len(experts) > 1 else ''}; train without deepspeed.moe."
        )


def check_wrapper(optimizer: Any) -> None:
    """Refuses a wrapper of DeepSpeed's around the optimizer in which `fragments` does not know its way.

    Which one DeepSpeed takes follows from stage, precision and accumulation dtype in many spellings, so it is asked of
    the engine that was made.
    """
    if isinstance(optimizer, torch.optim.Optimizer) or type(optimizer) in _WRAPPERS:
        return
    if optimizer is None:
        raise UserError("Expected an optimizer, in the JSON or passed as optimizer=…. Got none.")
    raise UserError(
        f"Expected ZeRO and precision settings under which DeepSpeed keeps weights in one of "
        f"{', '.join(wrapper.__name__ for wrapper in _WRAPPERS)}. Got {type(optimizer).__name__}; for bf16 with fp32 "
        "gradient accumulation use ZeRO stage 2."
    )


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Refuses an optimizer whose state we do not know how to mask; subclasses are not taken on trust."""
    name = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
    if name not in _OPTIMIZER_CLASSES:
        raise UserError(
            f"Expected an optimizer whose state dsparse knows how to mask: {', '.join(_OPTIMIZER_CLASSES)}. Got {name}."
        )
    if any(group.get("eps") == 0 for group in optimizer.param_groups):
        raise UserError("Expected an optimizer with eps > 0. Got 0: an inactive weight would become 0 / 0.")


def check_checkpoint_writer(engine: Any) -> None:
    """Refuses another checkpoint writer than DeepSpeed's plain one, whose place is taken by ours."""
    if type(engine.checkpoint_engine) is not TorchCheckpointEngine:
        raise UserError(
            f"Expected DeepSpeed's plain checkpoint writer. Got {type(engine.checkpoint_engine).__name__}, which "
            "dsparse cannot checksum: leave checkpoint.writer, nebula and datastates out of the JSON."
        )


def warn_of_untested_version() -> None:
    """Says so, once, where DeepSpeed is another release than those the tests ran with."""
    if deepspeed.__version__ not in TESTED_DEEPSPEED_VERSIONS:
        logger.warning(
            "dsparse was tested with DeepSpeed %s, this is %s; the invariant is checked at the first update.",
            ", ".join(TESTED_DEEPSPEED_VERSIONS),
            deepspeed.__version__,
        )


def _number(config: Mapping[str, Any], section: str, key: str, default: float) -> Any:
    """A number of a section; what is not one is DeepSpeed's to refuse."""
    value = _section(config, section).get(key, default)
    return value if isinstance(value, int | float) else default


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = config.get(key)
    return section if isinstance(section, Mapping) else {}
