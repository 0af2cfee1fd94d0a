"""A loss or a gradient that is not finite: the step is not applied, on any rank, at any stage; the next one is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.distributed.cells import Batches, Cell, allow_fp16, make_engine
from tests.distributed.rank_pool import RankPool
from tests.distributed.test_checkpoint import SPARSITY, final_state

pytestmark = pytest.mark.distributed


def step(engine: Any, cell: Cell, number: int, *, spoil: str | None = None) -> bool:
    """One step, spoilt on the last rank alone; whether it was applied."""
    from deepspeed import comm as dist

    loss = Batches(cell.dtype, seed=number).loss(engine)
    is_last = dist.get_rank() == dist.get_world_size() - 1
    if spoil == "loss" and is_last:
        # Not finite, with gradients that are.
        loss = loss + torch.tensor(float("inf"))
    if spoil == "gradient" and is_last:
        loss = loss * torch.tensor(float("nan"))
    engine.backward(loss)
    engine.step()
    return bool(engine.was_step_applied())


def spoilt(cell: Cell, spoil: str | None) -> dict[str, Any]:
    """Three steps, one that is spoilt, three more."""
    with allow_fp16():
        engine = make_engine(cell, **SPARSITY)
        applied = [step(engine, cell, number) for number in (1, 2, 3)]
        before = final_state(engine, [])
        if spoil is not None:
            applied.append(step(engine, cell, 99, spoil=spoil))
            after = final_state(engine, [])
        else:
            after = before
        counted = (engine.global_steps, engine.skipped_steps, engine.num_applied_steps)
        applied += [step(engine, cell, number) for number in (4, 5, 6)]
        engine.verify_sparsity()
        result = {
            "applied": applied, "unchanged": before == after, "counted": counted, "end": final_state(engine, []),
        }  # fmt: skip
        engine.destroy()
        return result


@pytest.mark.parametrize("spoil", ["loss", "gradient"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_step_is_not_applied_and_nothing_else_is_different(
    two_ranks: RankPool, stage: int, precision: str, spoil: str
) -> None:
    cell = Cell(stage, precision, clipping=stage % 2 == 0)
    straight = two_ranks.run(spoilt, cell, None)
    for result, other in zip(two_ranks.run(spoilt, cell, spoil), straight, strict=True):
        assert result["applied"] == [True] * 3 + [False] + [True] * 3
        assert result["unchanged"]
        assert result["counted"] == (4, 1, 3)
        if precision != "fp16":  # whose loss scale a skipped step lowers
            assert result["end"] == other["end"]


def dense(cell: Cell, is_ours: bool) -> list[Any]:
    """Losses and weights of a dense run by our engine or DeepSpeed's."""
    import deepspeed

    from dsparse.engine.initialize import initialize_dense
    from tests.distributed.cells import toy_model

    config = cell.config()
    del config["dynamic_sparsity"]
    model = toy_model()
    parameters = list(model.parameters())
    if is_ours:
        engine: Any = initialize_dense(model, config=config, model_parameters=parameters)
    else:
        engine = deepspeed.initialize(model=model, config=config, model_parameters=parameters)[0]
    losses = []
    for number in range(1, 6):
        loss = Batches(cell.dtype, seed=number).loss(engine)
        engine.backward(loss)
        engine.step()
        losses.append(float(loss))
    with deepspeed.zero.GatheredParameters(parameters, enabled=cell.stage == 3):
        weights = [parameter.double().flatten().tolist() for parameter in parameters]
    engine.destroy()
    return [losses, weights]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_dense_engine_trains_to_the_bits_of_deepspeeds_own(two_ranks: RankPool, stage: int, precision: str) -> None:
    cell = Cell(stage, precision, clipping=True)
    assert two_ranks.run(dense, cell, True) == two_ranks.run(dense, cell, False)
