"""The engine against forty lines of plain torch: no DeepSpeed, no ranks, whole weights, the paper's algorithm in order.

Every weight, both moments, every pattern and every loss are the same bits. So nothing that moves inside the engine, in
DeepSpeed or in the pattern core can change a training run unseen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dsparse.engine.config import parse_sparsity_block
from dsparse.engine.initialize import initial_patterns
from dsparse.methods import METHODS, UpdateContext
from dsparse.methods.scores import partial_block_scores
from dsparse.models.selection import select_weights
from dsparse.pattern.block_pattern import expand_blocks
from dsparse.pattern.edit import apply_edit, drop_and_grow
from dsparse.schedule import drop_fraction, num_moved
from tests.distributed.cells import Batches, Cell, backward, full_states, make_engine, pattern_numbers, toy_model
from tests.distributed.rank_pool import RankPool

pytestmark = pytest.mark.distributed

STEPS, UPDATES = 24, 8
SPARSITY: dict[str, Any] = {"total_steps": STEPS, "updates": UPDATES, "drop_schedule": "cosine"}
MOMENTS = ("exp_avg", "exp_avg_sq")

Numbers = dict[str, dict[str, list[list[float]]]]


def batch(step: int, rank: int) -> tuple[Tensor, Tensor]:
    """What `Batches(torch.float32, seed=step)` gives a rank first."""
    generator = torch.Generator().manual_seed(step * 1000 + rank)
    return torch.randn(4, 24, generator=generator), torch.randn(4, 8, generator=generator)


def reference_run(block: int, num_ranks: int) -> dict[str, Any]:
    """Sparse training as the paper has it, on whole weights."""
    config = parse_sparsity_block(Cell(0, "fp32", block=block).config(**SPARSITY)["dynamic_sparsity"])
    model = toy_model()
    weights = select_weights(model)
    patterns = initial_patterns({name: (w.shape[0], w.shape[1]) for name, w in weights.items()}, config)
    for name, weight in weights.items():
        weight.data[~patterns[name].mask()] = 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    losses: list[list[float]] = [[] for _ in range(num_ranks)]
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        for rank in range(num_ranks):
            x, y = batch(step, rank)
            loss = ((model(x) - y) ** 2).mean()
            losses[rank].append(float(loss.detach()))
            (loss / num_ranks).backward()
        for name, weight in weights.items():
            assert weight.grad is not None
            weight.grad[~patterns[name].mask()] = 0
        optimizer.step()
        if step % (STEPS // UPDATES) == 0 and step < STEPS:
            number = step // (STEPS // UPDATES)
            fraction = drop_fraction(step, total_steps=STEPS, initial=config.drop_fraction, schedule="cosine")
            for name, weight in weights.items():
                pattern = patterns[name]
                edit = drop_and_grow(
                    pattern,
                    partial_block_scores(weight.detach().flatten(), 0, pattern, config.score),
                    METHODS["set"].grow_score(pattern, UpdateContext(config.seed, name, number)),
                    num_moved(fraction, pattern.num_active),
                )
                touched = expand_blocks(edit.touched_mask(pattern), block)
                for tensor in (weight.data, *(optimizer.state[weight][key] for key in MOMENTS)):
                    tensor[touched] = 0
                patterns[name] = apply_edit(pattern, edit)
    states = {n: {"weight": w.data, **{key: optimizer.state[w][key] for key in MOMENTS}} for n, w in weights.items()}
    return {
        "states": plain(states),
        "patterns": {name: pattern.block_numbers().tolist() for name, pattern in patterns.items()},
        "losses": losses,
    }


def engine_run(stage: int, block: int) -> dict[str, Any]:
    """The same through `dsparse.initialize`."""
    engine = make_engine(Cell(stage, "fp32", block=block), **SPARSITY)
    losses = []
    for step in range(1, STEPS + 1):
        losses.append(float(backward(engine, Batches(torch.float32, seed=step), 1)))
        engine.step()
    states = {n: {k: t for k, t in s.items() if k != "master"} for n, s in full_states(engine).items()}
    result = {"states": plain(states), "patterns": pattern_numbers(engine), "losses": losses}
    engine.destroy()
    return result


def plain(states: dict[str, dict[str, Tensor]]) -> Numbers:
    """Tensors as lists, which keep every bit of a float32."""
    return {name: {key: tensor.tolist() for key, tensor in by_key.items()} for name, by_key in states.items()}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_the_engine_is_the_reference_bit_for_bit(
    pools: Callable[[int], RankPool], num_ranks: int, block: int, stage: int
) -> None:
    """For one and two ranks: a mean over two is exact, and a + b is b + a."""
    expected = reference_run(block, num_ranks)
    for rank, result in enumerate(pools(num_ranks).run(engine_run, stage, block)):
        assert result["patterns"] == expected["patterns"]
        assert result["losses"] == expected["losses"][rank]
        assert result["states"] == expected["states"]
