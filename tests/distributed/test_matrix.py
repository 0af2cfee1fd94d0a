"""Every combination of ZeRO stage, precision, accumulation, clipping, offload and optimizer holds the invariant."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from tests.distributed.cells import STEPS, UPDATES, Cell, make_engine, toy_model
from tests.distributed.matrix import CELLS, OPTIMIZER_CELLS, PACKED_CELLS, run_cell
from tests.distributed.rank_pool import RankPool

pytestmark = pytest.mark.distributed

_seen: dict[Cell, Any] = {}


def name_of(cell: Cell) -> str:
    return " ".join(f"{key}={value}" for key, value in asdict(cell).items())


@pytest.mark.parametrize("cell", CELLS + OPTIMIZER_CELLS + PACKED_CELLS, ids=name_of)
def test_cell_holds_the_invariant_and_ranks_agree(two_ranks: RankPool, cell: Cell) -> None:
    first, second = _result(two_ranks, cell)
    assert first["wrong"] == second["wrong"] == []
    assert first["applied"] == STEPS
    assert first["updates"] == UPDATES - 1
    assert first["patterns"] == second["patterns"]


@pytest.mark.parametrize("cell", [c for c in CELLS if c.stage in (2, 3) and not c.offload], ids=name_of)
def test_stages_arrive_at_the_same_patterns_and_losses(two_ranks: RankPool, cell: Cell) -> None:
    """Bit for bit: two ranks add two gradients, and a + b is b + a.

    In fp32 all stages are one optimizer. In bf16 and fp16 DeepSpeed's stage 0 is another one than its stages 1 to 3
    (see `test_stage_0_in_bf16_begins_with_a_step_of_its_own`), so those three are compared.
    """
    base = replace(cell, stage=0 if cell.precision == "fp32" else 1)
    if cell.clipping and cell.precision == "fp32":
        base = replace(base, stage=1)  # stage 0 clips by torch's norm, which sums in another order
    ours, theirs = _result(two_ranks, cell), _result(two_ranks, base)
    assert ours[0]["patterns"] == theirs[0]["patterns"]
    assert [r["losses"] for r in ours] == [r["losses"] for r in theirs]


@pytest.mark.parametrize("cell", [c for c in PACKED_CELLS if c.precision == "fp32"], ids=name_of)
def test_packed_follows_masked(two_ranks: RankPool, cell: Cell) -> None:
    """Products add up blocks in another order, so losses may differ in their last bits; patterns may not."""
    ours, theirs = _result(two_ranks, cell), _result(two_ranks, replace(cell, layout="masked"))
    assert ours[0]["patterns"] == theirs[0]["patterns"]
    for rank in range(2):
        assert ours[rank]["losses"] == pytest.approx(theirs[rank]["losses"], rel=1e-5)


@pytest.mark.parametrize("cell", [c for c in CELLS if c.stage in (1, 2, 3) and c.offload], ids=name_of)
def test_offload_changes_nothing(two_ranks: RankPool, cell: Cell) -> None:
    ours, theirs = _result(two_ranks, cell), _result(two_ranks, replace(cell, offload=False))
    assert ours[0]["patterns"] == theirs[0]["patterns"]


def masters_and_steps(stage: int) -> tuple[bool, bool, int]:
    """Of a bf16 engine just made: are its masters the rounded weights, or these decayed once; Adam's step count."""
    engine = make_engine(Cell(stage, "bf16"))
    start = dict(toy_model().named_parameters())
    rounded, decayed = True, True
    for name, pattern in engine.patterns.items():
        fragment = engine._fragments[name]
        span = slice(fragment.start, fragment.start + fragment.master_n.numel())
        weight = start[name].detach().masked_fill(~pattern.mask(), 0).bfloat16().float().flatten()[span]
        rounded &= torch.equal(fragment.master_n, weight)
        decayed &= torch.equal(fragment.master_n, weight * (1 - 1e-3 * 0.01))  # learning rate times weight decay
    states = engine.optimizer.optimizer.state.values()
    num_steps = max((int(state["step"]) for state in states if "step" in state), default=0)
    engine.destroy()
    return rounded, decayed, num_steps


@pytest.mark.parametrize(("stage", "expected"), [(0, (False, True, 1)), *((s, (True, False, 0)) for s in (1, 2, 3))])
def test_stage_0_in_bf16_begins_with_a_step_of_its_own(
    two_ranks: RankPool, stage: int, expected: tuple[bool, bool, int]
) -> None:
    """Why bf16 at stage 0 is not compared with the other stages: DeepSpeed steps it once with zero gradients."""
    assert two_ranks.run(masters_and_steps, stage) == [expected, expected]


def _result(pool: RankPool, cell: Cell) -> list[Any]:
    if cell not in _seen:
        _seen[cell] = pool.run(run_cell, cell)
    return _seen[cell]
