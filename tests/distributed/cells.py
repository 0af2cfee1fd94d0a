"""What ranks run in the tests: small engines, and readings of everything DeepSpeed holds, by its own public calls."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

STEPS = 6
UPDATES = 3  # so two pattern updates, after applied steps 2 and 4


@dataclass(frozen=True)
class Cell:
    """One combination of the matrix."""

    stage: int
    precision: str
    accumulation: int = 1
    clipping: bool = False
    offload: bool = False
    optimizer: str = "torch AdamW"
    block: int = 4
    layout: str = "masked"

    @property
    def dtype(self) -> torch.dtype:
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]

    def config(self, **sparsity: Any) -> dict[str, Any]:
        """The DeepSpeed configuration."""
        optimizers = {
            "torch AdamW": {"type": "AdamW", "params": {"lr": 1e-3, "weight_decay": 0.01, "torch_adam": True}},
            "DeepSpeed AdamW": {"type": "AdamW", "params": {"lr": 1e-3, "weight_decay": 0.01}},
            "SGD momentum": {"type": "SGD", "params": {"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.01}},
        }
        config: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": 4,
            "gradient_accumulation_steps": self.accumulation,
            "gradient_clipping": 0.1 if self.clipping else 0.0,
            "optimizer": optimizers[self.optimizer],
            "zero_optimization": {"stage": self.stage},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
            "dynamic_sparsity": {
                "sparsity": 0.75,
                "block_size": self.block,
                "layout": self.layout,
                "total_steps": STEPS,
                "updates": UPDATES,
                "drop_fraction": 0.75,
                "drop_schedule": "linear",
                "verify_every": 0,
                **sparsity,
            },
        }
        if self.offload:
            config["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
            config["zero_force_ds_cpu_optimizer"] = False
        if self.precision == "bf16":
            config["bf16"] = {"enabled": True}
        if self.precision == "fp16":
            config["fp16"] = {"enabled": True, "initial_scale_power": 8}
        return config


class ToyModel(nn.Module):
    """Rectangular linear layers whose ZeRO fragments begin and end inside rows and blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(24, 40)
        self.mix = nn.Linear(40, 56, bias=False)
        self.down = nn.Linear(56, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.mix(torch.tanh(self.up(x)))))


def toy_model(seed: int = 0) -> ToyModel:
    """The same weights on every rank."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ToyModel()


@contextmanager
def allow_fp16() -> Iterator[None]:
    """DeepSpeed's CPU accelerator says it has no fp16, though every stage trains in it: answer its two questions."""
    from deepspeed.accelerator import get_accelerator

    accelerator = get_accelerator()
    accelerator.is_fp16_supported = lambda: True
    accelerator.supported_dtypes = lambda: [torch.float32, torch.float16, torch.bfloat16]
    try:
        yield
    finally:
        del accelerator.is_fp16_supported, accelerator.supported_dtypes


def make_engine(cell: Cell, model: nn.Module | None = None, **sparsity: Any) -> Any:
    """A `SparseEngine` for a cell."""
    import dsparse

    model = toy_model() if model is None else model
    config = cell.config(**sparsity)
    return dsparse.initialize(model=model, config=config, model_parameters=model.parameters())[0]


class Batches:
    """Seeded micro-batches, other ones on each rank."""

    def __init__(self, dtype: torch.dtype, seed: int = 1) -> None:
        from deepspeed import comm as dist

        self._generator = torch.Generator().manual_seed(seed * 1000 + dist.get_rank())
        self._dtype = dtype

    def loss(self, engine: Any) -> Tensor:
        """Mean squared error on the next micro-batch."""
        x = torch.randn(4, 24, generator=self._generator).to(self._dtype)
        y = torch.randn(4, 8, generator=self._generator).to(self._dtype)
        return ((engine(x) - y) ** 2).mean()


def backward(engine: Any, batches: Batches, accumulation: int) -> Tensor:
    """All micro-batches of a step but the last call of `engine.step`, so that gradients can be read."""
    for micro in range(accumulation):
        loss = batches.loss(engine)
        engine.backward(loss)
        if micro < accumulation - 1:
            engine.step()
    return loss.detach()


def sparse_parameters(engine: Any) -> dict[str, nn.Parameter]:
    """Sparse weights by name."""
    parameters = dict(engine.module.named_parameters())
    return {name: parameters[name] for name in engine.patterns}


def full_gradients(engine: Any) -> dict[str, Tensor]:
    """Gradients of sparse weights, whole, between the last backward and the step."""
    from deepspeed.utils import safe_get_full_grad

    return {
        name: as_dense(safe_get_full_grad(p), engine.patterns[name]).clone()
        for name, p in sparse_parameters(engine).items()
    }


def as_dense(stored: Tensor, pattern: Any) -> Tensor:
    """[O, I] of a sparse weight, or of what belongs to it, in whichever layout it is stored."""
    from dsparse.layout.packed import unpack

    if stored.numel() == math.prod(pattern.shape):
        return stored.view(pattern.shape)
    return unpack(stored.view(-1, pattern.block, pattern.block), pattern.rows, pattern.cols, pattern.shape)


def full_states(engine: Any) -> dict[str, dict[str, Tensor]]:
    """As `parameter_states`, of the sparse weights, as dense ones."""
    return {
        name: {key: as_dense(state, engine.patterns[name]) for key, state in states.items()}
        for name, states in parameter_states(engine).items()
        if name in engine.patterns
    }


def parameter_states(engine: Any) -> dict[str, dict[str, Tensor]]:
    """By parameter name: weight, master and both moments (or the momentum), whole, by DeepSpeed's public calls.

    Those return None at stage 0, where the optimizer itself is asked instead.
    """
    from deepspeed import zero
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    stage = engine.zero_optimization_stage()
    keys = ["momentum_buffer"] if "SGD" in type(engine.basic_optimizer).__name__ else ["exp_avg", "exp_avg_sq"]
    result = {}
    for name, parameter in engine.module.named_parameters():
        with zero.GatheredParameters([parameter], enabled=stage == 3):
            states = {"weight": parameter.detach().clone()}
            shape = parameter.shape
        if stage:
            states["master"] = safe_get_full_fp32_param(parameter)
            states |= {key: safe_get_full_optimizer_state(parameter, key) for key in keys}
        else:
            states |= _stage_0_states(engine, parameter, keys)
        result[name] = {key: tensor.detach().view(shape).clone() for key, tensor in states.items()}
    return result


def _stage_0_states(engine: Any, parameter: nn.Parameter, keys: list[str]) -> dict[str, Tensor]:
    optimizer = engine.optimizer
    if hasattr(optimizer, "fp32_groups"):  # FP16_UnfusedOptimizer, in bf16 too
        for low, high in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            for candidate, master in zip(low, high, strict=True):
                if candidate is parameter:
                    state = optimizer.optimizer.state[master]
                    return {"master": master} | {key: state[key] for key in keys}
    if hasattr(optimizer, "fp32_groups_flat"):  # FP16_Optimizer, one flat master per group
        for low, flat in zip(optimizer.fp16_groups, optimizer.fp32_groups_flat, strict=True):
            offset = 0
            for candidate in low:
                if candidate is parameter:
                    span = slice(offset, offset + parameter.numel())
                    state = optimizer.optimizer.state[flat]
                    return {"master": flat[span]} | {key: state[key][span] for key in keys}
                offset += candidate.numel()
    return {"master": parameter.data} | {key: optimizer.state[parameter][key] for key in keys}


def pattern_numbers(engine: Any) -> dict[str, list[int]]:
    """Active block numbers by weight name, in slot order."""
    return {name: pattern.block_numbers().tolist() for name, pattern in engine.patterns.items()}
