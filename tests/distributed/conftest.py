"""Pools of rank processes, one per world size, kept for the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.distributed.rank_pool import RankPool


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
