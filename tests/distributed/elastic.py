"""What ranks run to save on some ranks and resume on others: the same global batches, cut another way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.distributed.cells import Cell, allow_fp16, as_dense, parameter_states, pattern_numbers, toy_model

GLOBAL_BATCH = 12
SAVED_AT, LAST = 5, 10
SPARSITY: dict[str, Any] = {"total_steps": LAST, "updates": 5}  # so updates after steps 2, 4, 6 and 8


def elastic_engine(cell: Cell, *, seed: int = 0) -> Any:
    """An engine with a schedule, whose global batch does not depend on the number of ranks."""
    import deepspeed
    from deepspeed import comm as dist

    import dsparse

    deepspeed.init_distributed()
    config = cell.config(**SPARSITY)
    config["train_micro_batch_size_per_gpu"] = GLOBAL_BATCH // dist.get_world_size()
    config["scheduler"] = {"type": "WarmupDecayLR", "params": {"warmup_num_steps": 3, "total_num_steps": LAST}}
    model = toy_model(seed)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1]},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return dsparse.initialize(model=model, config=config, model_parameters=groups)[0]


def train(engine: Any, dtype: torch.dtype, first: int, last: int) -> list[float]:
    """Steps first … last; the losses are those of the global batches."""
    from deepspeed import comm as dist

    rank, world_size = dist.get_rank(), dist.get_world_size()
    losses = []
    for step in range(first, last + 1):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(GLOBAL_BATCH, 24, generator=generator)[rank::world_size].to(dtype)
        y = torch.randn(GLOBAL_BATCH, 8, generator=generator)[rank::world_size].to(dtype)
        loss = ((engine(x) - y) ** 2).mean()
        engine.backward(loss)
        engine.step()
        mean = loss.detach().double() / world_size
        dist.all_reduce(mean)
        losses.append(float(mean))
    return losses


def exact_state(engine: Any) -> dict[str, Any]:
    """What must be equal to the bit right after a load."""

    def plain(name: str, tensor: Tensor) -> list[float]:
        dense = as_dense(tensor, engine.patterns[name]) if name in engine.patterns else tensor
        return dense.double().flatten().tolist()

    return {
        "states": {n: {k: plain(n, t) for k, t in states.items()} for n, states in parameter_states(engine).items()},
        "patterns": pattern_numbers(engine),
        "coverage": engine.coverage,
        "last_grown": {name: history.last_grown.tolist() for name, history in engine.histories.items()},
        "updates": engine.num_pattern_updates,
        "steps": [engine.global_steps, engine.skipped_steps],
        "learning_rates": engine.get_lr(),
        "loss_scale": _loss_scale(engine),
    }


def save(cell: Cell, folder: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains, saves, trains on; the state at the save, and what came after it."""
    with allow_fp16():
        engine = elastic_engine(cell)
        train(engine, cell.dtype, 1, SAVED_AT)
        state = exact_state(engine)
        engine.save_checkpoint(folder, tag="saved", client_state={"position": SAVED_AT * GLOBAL_BATCH})
        return state, _finish(engine, cell)


def resume(cell: Cell, folder: str) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Loads into an engine with other initial weights, and trains on; also the client's position."""
    with allow_fp16():
        engine = elastic_engine(cell, seed=99)
        _, client_state = engine.load_checkpoint(folder, tag="saved")
        return exact_state(engine), _finish(engine, cell), client_state["position"]


def _finish(engine: Any, cell: Cell) -> dict[str, Any]:
    losses = train(engine, cell.dtype, SAVED_AT + 1, LAST)
    engine.verify_sparsity()
    result = {"losses": losses, "patterns": pattern_numbers(engine), "coverage": engine.coverage}
    engine.destroy()
    return result


def _loss_scale(engine: Any) -> float:
    optimizer = engine.optimizer
    scaler = getattr(optimizer, "loss_scale_config", None) or getattr(optimizer, "loss_scaler", None)
    return float(getattr(scaler, "cur_scale", 1.0))
