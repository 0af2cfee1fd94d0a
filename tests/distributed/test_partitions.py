"""The same weights give the same patterns, bit for bit, however ZeRO cuts them and however many ranks there are."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dsparse.methods import METHODS, UpdateContext
from dsparse.methods.scores import partial_block_scores
from dsparse.pattern.edit import apply_edit, drop_and_grow
from dsparse.schedule import drop_fraction, num_moved
from tests.distributed.cells import (
    STEPS,
    UPDATES,
    Batches,
    Cell,
    backward,
    full_states,
    make_engine,
    pattern_numbers,
    toy_model,
)
from tests.distributed.rank_pool import RankPool

pytestmark = pytest.mark.distributed

SETTINGS = [
    {"score": "l1", "block_size": 4},
    {"score": "l2", "block_size": 8},
    {"score": "linf", "block_size": 2},
    {"score": "l1", "block_size": 1},
    {"score": "l1", "block_size": 8, "distribution": "erk", "regrow_dropped": True},
]


def patterns_with_frozen_weights(
    stage: int, precision: str, sparsity: dict[str, Any], layout: str = "masked"
) -> dict[str, Any]:
    """Patterns after each update of an engine whose learning rate is 0: only updates change its weights."""
    cell = Cell(stage, precision, optimizer="SGD momentum", layout=layout)
    model = toy_model()
    config = cell.config(**{"drop_schedule": "cosine", **sparsity})
    config["optimizer"]["params"] = {"lr": 0.0, "momentum": 0.9}
    import dsparse

    engine = dsparse.initialize(model=model, config=config, model_parameters=model.parameters())[0]
    history = [pattern_numbers(engine)]
    for _ in range(STEPS):
        backward(engine, Batches(cell.dtype), 1)
        engine.step()
        history.append(pattern_numbers(engine))
    weights = {name: states["weight"].float().tolist() for name, states in full_states(engine).items()}
    fragments = {name: (f.start, f.master_n.numel()) for name in engine.patterns for f in [engine._fragments[name]]}
    engine.destroy()
    return {"history": history, "weights": weights, "fragments": fragments}


def expected_history(precision: str, sparsity: dict[str, Any]) -> list[dict[str, list[int]]]:
    """The same, computed here on whole weights by the pure functions: no ranks, no DeepSpeed."""
    from dsparse.engine.config import parse_sparsity_block
    from dsparse.engine.initialize import initial_patterns
    from dsparse.models.selection import select_weights

    cell = Cell(0, precision)
    config = parse_sparsity_block({**cell.config()["dynamic_sparsity"], "drop_schedule": "cosine", **sparsity})
    weights = {n: w.detach().to(cell.dtype).float() for n, w in select_weights(toy_model()).items()}
    patterns = initial_patterns({n: (w.shape[0], w.shape[1]) for n, w in weights.items()}, config)
    for name, pattern in patterns.items():
        weights[name][~pattern.mask()] = 0
    history, number = [{n: p.block_numbers().tolist() for n, p in patterns.items()}], 0
    for step in range(1, STEPS + 1):
        if step in (2, 4):
            number += 1
            fraction = drop_fraction(
                step, total_steps=STEPS, initial=config.drop_fraction, schedule=config.drop_schedule
            )
            for name, pattern in patterns.items():
                edit = drop_and_grow(
                    pattern,
                    partial_block_scores(weights[name].flatten(), 0, pattern, config.score),
                    METHODS["set"].grow_score(pattern, UpdateContext(config.seed, name, number)),
                    num_moved(fraction, pattern.num_active),
                    regrow_dropped=config.regrow_dropped,
                )
                patterns[name] = apply_edit(pattern, edit)
                weights[name][~patterns[name].mask()] = 0
                grown = torch.zeros(pattern.num_blocks, dtype=torch.bool)
                grown[edit.grown] = True
                from dsparse.pattern.block_pattern import expand_blocks

                weights[name][expand_blocks(grown.view(pattern.grid), pattern.block)] = 0
        history.append({n: p.block_numbers().tolist() for n, p in patterns.items()})
    return history


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("sparsity", SETTINGS, ids=lambda s: " ".join(f"{k}={v}" for k, v in s.items()))
def test_patterns_do_not_depend_on_ranks_or_stage(
    pools: Callable[[int], RankPool], num_ranks: int, sparsity: dict[str, Any]
) -> None:
    expected = expected_history("fp32", sparsity)
    assert expected[0] != expected[2] != expected[4]
    for stage, layout in itertools.product((0, 1, 2, 3), ("masked", "packed")):
        for result in pools(num_ranks).run(patterns_with_frozen_weights, stage, "fp32", sparsity, layout):
            assert result["history"] == expected, f"stage {stage}, {layout}"


def bf16_drops(stage: int) -> list[list[list[int]]]:
    """Blocks that the engine would drop after some steps, and by gathered masters and bf16 weights; many shares."""
    engine = make_engine(Cell(stage, "bf16", block=1), total_steps=100, updates=2)
    for step in range(5):
        backward(engine, Batches(torch.bfloat16, seed=step), 1)
        engine.step()
    drops = []
    for name, states in full_states(engine).items():
        pattern = engine.patterns[name]
        for fraction in torch.arange(0.05, 0.75, 0.05).tolist():
            found = [engine._sparsity._edit(name, 1, fraction).dropped.tolist()]
            for weight in (states["master"].float(), states["weight"].float()):
                scores_S = partial_block_scores(weight.flatten(), 0, pattern, "l1")
                draws_N, moved = torch.zeros(pattern.num_blocks), num_moved(fraction, pattern.num_active)
                found.append(drop_and_grow(pattern, scores_S, draws_N, moved).dropped.tolist())
            drops.append(found)
    engine.destroy()
    return drops


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bf16_scores_are_those_of_the_masters(two_ranks: RankPool, stage: int) -> None:
    """In bf16 many weights are equal that are not in their fp32 masters, so that other blocks would go."""
    for result in two_ranks.run(bf16_drops, stage):
        assert all(by_engine == by_master for by_engine, by_master, _ in result)
        assert any(by_engine != by_weight for by_engine, _, by_weight in result)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_fragments_do_cut_blocks(pools: Callable[[int], RankPool], stage: int) -> None:
    """The tests above would prove little if every fragment ended at a block row."""
    results = pools(3).run(patterns_with_frozen_weights, stage, "fp32", SETTINGS[1])
    num_in = {"up.weight": 24, "mix.weight": 40, "down.weight": 56}
    starts = [(name, start) for r in results for name, (start, num) in r["fragments"].items() if num]
    assert any(start % (8 * num_in[name]) for name, start in starts), "some fragment starts inside a block row"
    assert any(start % num_in[name] for name, start in starts), "some fragment starts inside a row"


def test_updates_are_as_many_as_the_schedule_says() -> None:
    history = expected_history("fp32", SETTINGS[0])
    assert sum(a != b for a, b in itertools.pairwise(history)) == UPDATES - 1
