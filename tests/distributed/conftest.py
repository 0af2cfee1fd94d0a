"""Pools of rank processes, one per world size, kept for the session."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.distributed.rank_pool import RankPool


@pytest.fixture(scope="session", autouse=True)
def compiled_adam(request: pytest.FixtureRequest) -> None:
    """Has DeepSpeed compile its Adams before ranks want them, who wait for each other for less time than that takes."""
    if any("DeepSpeed AdamW" in item.nodeid for item in request.session.items):
        builders = "for name in ('FusedAdamBuilder', 'CPUAdamBuilder'): accelerator.create_op_builder(name).load()"
        code = f"from deepspeed.accelerator import get_accelerator\naccelerator = get_accelerator()\n{builders}"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=1200)


@pytest.fixture(scope="session")
def pools() -> Iterator[Callable[[int], RankPool]]:
    """Gives the pool of a world size; a pool that died in a test is made anew."""
    made: dict[int, RankPool] = {}

    def pool(num_ranks: int) -> RankPool:
        if num_ranks not in made or not made[num_ranks].is_alive:
            if num_ranks in made:
                made[num_ranks].close()
            made[num_ranks] = RankPool(num_ranks)
        return made[num_ranks]

    yield pool
    for one in made.values():
        one.close()


@pytest.fixture
def two_ranks(pools: Callable[[int], RankPool]) -> RankPool:
    """The pool of two ranks."""
    return pools(2)
