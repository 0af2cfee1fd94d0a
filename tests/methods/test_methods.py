"""Methods by name, and that SET grows uniformly: by the smallest draws, tested as a statistic and for its power."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsparse.methods import METHODS, UpdateContext
from dsparse.methods.set import random_grow_score
from dsparse.pattern.block_pattern import BlockPattern
from dsparse.pattern.edit import drop_and_grow
from tests.pattern import reference
from tests.pattern.reference import pattern_of, patterns

NUM_UPDATES = 3000
# A right generator fails a test at this level once in a million choices of seed; the seeds here are fixed.
LEVEL = 1e-6


def chi_square_limit(degrees: int) -> float:
    """The value that a chi-square variable exceeds with probability LEVEL (Wilson and Hilferty 1931)."""
    z = NormalDist().inv_cdf(1 - LEVEL)
    return degrees * (1 - 2 / (9 * degrees) + z * (2 / (9 * degrees)) ** 0.5) ** 3


def uniformity(counts: torch.Tensor, num_trials: int, num_chosen: int) -> float:
    """Chi-square statistic, with candidates − 1 degrees of freedom, of how often each candidate was chosen.

    A trial chooses `num_chosen` of the m candidates without replacement. With p = num_chosen / m, the counts of n
    trials have covariance n p (1 − p) m / (m − 1) · (I − 1/m): Σ (count − n p)² over that factor is chi-square.
    """
    num_candidates = counts.numel()
    share = num_chosen / num_candidates
    factor = num_trials * share * (1 - share) * num_candidates / (num_candidates - 1)
    return float(((counts - num_trials * share) ** 2).sum()) / factor


GrowScore = Callable[[BlockPattern, UpdateContext], torch.Tensor]


def grown_at(pattern: BlockPattern, grow_score: GrowScore, context: UpdateContext, num_moved: int) -> torch.Tensor:
    drop = torch.zeros(pattern.num_active, dtype=torch.int64)
    return drop_and_grow(pattern, drop, grow_score(pattern, context), num_moved).grown


def count_grown(grow_score: GrowScore, contexts: list[UpdateContext]) -> float:
    """The statistic over 48 candidates among 64 blocks, 4 grown at each of the contexts."""
    pattern = BlockPattern.random((16, 64), block=4, density=0.25, seed=1, name="w")
    counts = torch.zeros(pattern.num_blocks, dtype=torch.float64)
    for context in contexts:
        counts[grown_at(pattern, grow_score, context, 4)] += 1
    candidates = ~pattern.block_mask().flatten()
    assert counts[~candidates].sum() == 0
    return uniformity(counts[candidates], len(contexts), 4)


STREAMS = {
    "updates": [UpdateContext(seed=42, name="w", update=update + 1) for update in range(NUM_UPDATES)],
    "seeds": [UpdateContext(seed=seed, name="w", update=1) for seed in range(NUM_UPDATES)],
    "names": [UpdateContext(seed=42, name=f"layer.{layer}.w", update=1) for layer in range(NUM_UPDATES)],
}


@pytest.mark.parametrize("over", STREAMS)
def test_growth_is_uniform_over_candidates(over: str) -> None:
    assert count_grown(random_grow_score, STREAMS[over]) < chi_square_limit(47)


def test_the_statistic_sees_a_bias() -> None:
    def biased(pattern: BlockPattern, context: UpdateContext) -> torch.Tensor:
        # One candidate in 48 is chosen about half as often again as it should be.
        score = random_grow_score(pattern, context)
        favourite = int((~pattern.block_mask().flatten()).nonzero()[0])
        if context.update % 24 == 0:
            score[favourite] = 2**63 - 1
        return score

    assert count_grown(biased, STREAMS["updates"]) > chi_square_limit(47)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda i: (42, "w", i + 1), lambda i: (42, "w", i + 2)),
        (lambda i: (42, "query", i + 1), lambda i: (42, "key", i + 1)),
        (lambda i: (i, "w", 1), lambda i: (i + 1, "w", 1)),
    ],
    ids=["next update", "other weight", "next seed"],
)
def test_streams_are_independent(one: Callable[[int], tuple], other: Callable[[int], tuple]) -> None:
    """Two independent choices of k of m share k²/m on average: the sum over trials is compared with its deviation."""
    pattern = pattern_of(list(range(16)), (1, 64), 1)
    num_chosen, num_candidates, num_trials = 12, 48, 1000
    shared = 0
    for trial in range(num_trials):
        choices = [
            set(grown_at(pattern, random_grow_score, UpdateContext(*stream(trial)), num_chosen).tolist())
            for stream in (one, other)
        ]
        shared += len(choices[0] & choices[1])
    share = num_chosen / num_candidates
    variance = num_chosen * share * (1 - share) * (num_candidates - num_chosen) / (num_candidates - 1)
    deviation = (num_trials * variance) ** 0.5
    assert abs(shared - num_trials * num_chosen * share) < NormalDist().inv_cdf(1 - LEVEL / 2) * deviation


@given(patterns(), st.integers(0, 2**63 - 1), st.text(max_size=20), st.integers(1, 1000), st.data())
def test_set_grows_the_smallest_draws(
    pattern: BlockPattern, seed: int, name: str, update: int, data: st.DataObject
) -> None:
    num_moved = data.draw(st.integers(0, min(pattern.num_active, pattern.num_blocks - pattern.num_active)))
    active = set(pattern.block_numbers().tolist())
    candidates = [number for number in range(pattern.num_blocks) if number not in active]
    draws = [reference.draw(seed, name, update, number) for number in candidates]
    expected = [candidates[i] for i in reference.smallest(draws, candidates, num_moved)]
    context = UpdateContext(seed=seed, name=name, update=update)
    assert grown_at(pattern, random_grow_score, context, num_moved).tolist() == expected


def test_set_known_answer() -> None:
    pattern = pattern_of([3, 4, 5, 13, 15, 19], (64, 96), 16)
    context = UpdateContext(seed=42, name="bert.encoder.layer.0.attention.self.query.weight", update=3)
    assert grown_at(pattern, random_grow_score, context, 3).tolist() == [9, 11, 20]


def test_methods_by_name() -> None:
    assert set(METHODS) == {"static", "set"}
    assert all(name == method.name for name, method in METHODS.items())
    assert METHODS["static"].grow_score is None
    assert METHODS["set"].grow_score is random_grow_score


def test_the_first_pattern_and_the_first_growth_are_different_draws() -> None:
    pattern = BlockPattern.random((32, 32), block=1, density=0.1, seed=7, name="w")
    as_grown = grown_at(pattern_of([0], (32, 32), 1), random_grow_score, UpdateContext(7, "w", 1), 1)
    assert as_grown.tolist() != pattern.block_numbers()[:1].tolist()
    first = BlockPattern.random((32, 32), block=1, density=0.5, seed=7, name="w").block_mask().flatten()
    grown = random_grow_score(pattern, UpdateContext(7, "w", 1)) >= -(2**62)
    # Independent halves of 1024 blocks agree on about half of them; the same half would agree on all.
    assert abs(int((first == grown).sum()) - 512) < 5 * 16
