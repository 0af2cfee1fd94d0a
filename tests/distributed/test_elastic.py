"""Saved on some ranks at some ZeRO stage, resumed on others at another: nothing is silently different.

The pairs here cover every pair of stages and every pair of world sizes once; benchmarks/elastic_resume.py makes the
whole table.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.cells import Cell
from tests.distributed.elastic import GLOBAL_BATCH, SAVED_AT, resume, save
from tests.distributed.rank_pool import RankPool

pytestmark = pytest.mark.distributed

Pools = Callable[[int], RankPool]

# Two orthogonal Latin squares (addition, and addition after a product, in the field of four elements): over the sixteen
# pairs of stages each pair of world sizes comes once.
_TIMES_2 = (0, 2, 3, 1)
PAIRS = [(1 + (z ^ other), z, 1 + (z ^ _TIMES_2[other]), other) for z in range(4) for other in range(4)]

# Where masters are rounded to few bits, another order of additions shows sooner.
LOSS_TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 5e-3}


@pytest.fixture(scope="module")
def saved(pools: Pools, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Any, Any]]:
    """Checkpoints by what saved them, each made once, with the state they hold and what came after."""
    made: dict[tuple[Any, ...], tuple[Path, Any, Any]] = {}

    def get(world_size: int, cell: Cell) -> tuple[Path, Any, Any]:
        if (world_size, cell) not in made:
            folder = tmp_path_factory.mktemp("saved")
            results = pools(world_size).run(save, cell, str(folder))
            made[world_size, cell] = (folder, *results[0])
        return made[world_size, cell]

    return get


def check(pools: Pools, saved: Callable[..., Any], before: tuple[int, Cell], after: tuple[int, Cell]) -> None:
    """Resumes and compares: the state to the bit, what follows to floating-point order."""
    folder, state, rest = saved(*before)
    world_size, cell = after
    for then, later, position in pools(world_size).run(resume, cell, str(folder)):
        assert then == state
        assert position == SAVED_AT * GLOBAL_BATCH
        # Gradients are sums over ranks, in another order on another number of them. In 16 bits that moves masters by
        # more than the distance of two blocks' scores now and then, and another block is dropped.
        if cell.precision == "fp32":
            assert later["patterns"] == rest["patterns"] and later["coverage"] == rest["coverage"]
        assert later["losses"] == pytest.approx(rest["losses"], rel=LOSS_TOLERANCE[cell.precision])


@pytest.mark.parametrize(("ranks", "stage", "new_ranks", "new_stage"), PAIRS)
def test_any_ranks_and_stages(pools: Pools, saved: Any, ranks: int, stage: int, new_ranks: int, new_stage: int) -> None:
    check(pools, saved, (ranks, Cell(stage, "fp32")), (new_ranks, Cell(new_stage, "fp32")))


@pytest.mark.parametrize(("stage", "new_stage"), [(0, 1), (1, 3), (3, 0), (2, 2)], ids=lambda stage: f"stage{stage}")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision(pools: Pools, saved: Any, stage: int, new_stage: int, precision: str) -> None:
    check(pools, saved, (2, Cell(stage, precision)), (3, Cell(new_stage, precision)))


@pytest.mark.parametrize(
    ("layout", "stage", "new_layout", "new_stage"),
    [
        ("masked", 1, "packed", 1),
        ("packed", 1, "masked", 1),
        ("masked", 3, "packed", 0),
        ("packed", 0, "masked", 3),
        ("packed", 3, "packed", 2),
        ("packed", 2, "packed", 2),
    ],
)
@pytest.mark.parametrize("new_ranks", [2, 3])
def test_layouts(
    pools: Pools, saved: Any, layout: str, stage: int, new_layout: str, new_stage: int, new_ranks: int
) -> None:
    """Masked and packed are one training: a checkpoint of either goes on in either, from the same bits."""
    before, after = Cell(stage, "fp32", layout=layout), Cell(new_stage, "fp32", layout=new_layout)
    check(pools, saved, (2, before), (new_ranks, after))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_layouts_in_low_precision(pools: Pools, saved: Any, precision: str) -> None:
    check(pools, saved, (2, Cell(1, precision, layout="masked")), (2, Cell(1, precision, layout="packed")))
    check(pools, saved, (2, Cell(2, precision, layout="packed")), (2, Cell(3, precision, layout="masked")))


@pytest.mark.parametrize("optimizer", ["DeepSpeed AdamW", "SGD momentum"])
def test_other_optimizers(pools: Pools, saved: Any, optimizer: str) -> None:
    check(pools, saved, (2, Cell(1, "fp32", optimizer=optimizer)), (1, Cell(3, "fp32", optimizer=optimizer)))
