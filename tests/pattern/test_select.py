"""Selection by (score, block number), against a sort of Python tuples."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsparse.pattern.select import select_largest, select_smallest
from tests.pattern import reference

# Few different values, so that most cases have ties; the ends of int64 and of float among them.
INTEGERS = st.sampled_from([-(2**63), -(2**62), -1, 0, 1, 2, 3, 2**62, 2**63 - 1])
FLOATS = st.sampled_from([float("-inf"), -1.0, -0.0, 0.0, 5e-324, 1.0, 1.0 + 2**-52, 1e300, float("inf")])


@st.composite
def cases(draw: st.DrawFn, values: st.SearchStrategy) -> tuple[list, list[int], int]:
    num_scores = draw(st.integers(1, 40))
    scores = draw(st.lists(values, min_size=num_scores, max_size=num_scores))
    numbers = draw(st.lists(st.integers(0, 10**12), min_size=num_scores, max_size=num_scores, unique=True))
    return scores, numbers, draw(st.integers(0, num_scores))


@given(cases(INTEGERS))
def test_integers_match_a_sort(case: tuple[list[int], list[int], int]) -> None:
    scores, numbers, k = case
    chosen = select_smallest(torch.tensor(scores, dtype=torch.int64), torch.tensor(numbers), k)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == reference.smallest(scores, numbers, k)


@given(cases(FLOATS))
def test_floats_match_a_sort(case: tuple[list[float], list[int], int]) -> None:
    scores, numbers, k = case
    chosen = select_smallest(torch.tensor(scores, dtype=torch.float64), torch.tensor(numbers), k)
    assert chosen.tolist() == reference.smallest(scores, numbers, k)


def test_ties_go_to_the_lower_block_number_not_the_lower_position() -> None:
    scores, numbers = torch.tensor([7, 7, 7, 7]), torch.tensor([30, 10, 20, 0])
    assert select_smallest(scores, numbers, 2).tolist() == [1, 3]


def test_a_large_tie_is_exact() -> None:
    numbers = torch.arange(100_000).flip(0)
    scores = torch.zeros(100_000, dtype=torch.int64)
    assert numbers[select_smallest(scores, numbers, 777)].sort().values.tolist() == list(range(777))


@pytest.mark.parametrize("k", [-1, 4])
def test_k_out_of_range(k: int) -> None:
    with pytest.raises(ValueError, match=rf"Expected 0 <= k <= 3\. Got k = {k}\."):
        select_smallest(torch.zeros(3), torch.arange(3), k)


@pytest.mark.gpu
@given(cases(INTEGERS))
def test_gpu_selects_as_cpu(case: tuple[list[int], list[int], int]) -> None:
    scores, numbers, k = torch.tensor(case[0], dtype=torch.int64), torch.tensor(case[1]), case[2]
    assert select_smallest(scores.cuda(), numbers.cuda(), k).tolist() == select_smallest(scores, numbers, k).tolist()


MANY = 70_000  # enough for a guess at where the largest begin


def scores_of_many(kind: str) -> torch.Tensor:
    random = torch.Generator().manual_seed(3)
    draws = torch.randint(0, 1 << 62, (MANY,), generator=random)
    return {
        "draws": draws,
        "few values": draws % 5,
        "all equal": torch.full((MANY,), -1),
        "floats": torch.randn(MANY, generator=random),
        # What the guess looks at says nothing of the rest.
        "large where nobody looks": torch.where(torch.arange(MANY) % 4 == 0, draws, 0),
        "small where nobody looks": torch.where(torch.arange(MANY) % 4 == 0, 0, draws),
        "ends of the range": torch.where(draws % 2 == 0, -(2**63), 2**63 - 1),
    }[kind]


@pytest.mark.parametrize("k", [0, 1, 500, 6_000, 34_000])
@pytest.mark.parametrize(
    "kind",
    ["draws", "few values", "all equal", "floats", "large where nobody looks", "small where nobody looks",
     "ends of the range"],
)  # fmt: skip
def test_the_largest_of_many_match_a_sort(kind: str, k: int) -> None:
    scores = scores_of_many(kind)
    is_candidate = torch.rand(MANY, generator=torch.Generator().manual_seed(4)) < 0.5
    candidates = is_candidate.nonzero().flatten().tolist()
    by_score = sorted(candidates, key=lambda number: (-scores[number].item(), number))
    assert select_largest(scores, is_candidate, k).tolist() == sorted(by_score[:k])


def test_the_largest_of_few_candidates() -> None:
    is_candidate = torch.zeros(MANY, dtype=torch.bool)
    is_candidate[[7, 11, MANY - 1]] = True
    assert select_largest(torch.arange(MANY), is_candidate, 2).tolist() == [11, MANY - 1]
    assert select_largest(torch.arange(MANY), is_candidate, 3).tolist() == [7, 11, MANY - 1]
    with pytest.raises(ValueError, match=r"Expected 0 <= k <= 3\. Got k = 4\."):
        select_largest(torch.arange(MANY), is_candidate, 4)
