"""The order of samples: a permutation for every size and key, another one each epoch, and known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsparse.data.sampler import locate, permute

KEYS = st.integers(0, 2**64 - 1)

# (how many, key): where the first ten go. A changed value changes the order of every run.
KNOWN_ANSWERS = [
    (1, 5, [0]),
    (2, 5, [1, 0]),
    (10, 42, [2, 9, 1, 5, 3, 7, 0, 4, 8, 6]),
    (10, 43, [7, 0, 6, 1, 5, 9, 8, 4, 3, 2]),
    (1000, 42, [998, 721, 62, 193, 563, 996, 685, 278, 883, 312]),
    (2**20 + 1, 7, [24623, 339825, 531805, 429974, 79455, 1005, 1023845, 44800, 844284, 253134]),
]


@given(num=st.integers(1, 3000), key=KEYS)
def test_every_number_comes_once(num: int, key: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(num), num=num, key=key)), np.arange(num))


@given(num=st.integers(1, 2**62), key=KEYS, data=st.data())
def test_any_size_without_a_table(num: int, key: int, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, num - 1), min_size=1, max_size=20, unique=True))
    permuted = permute(np.asarray(numbers), num=num, key=key)
    assert len(set(permuted.tolist())) == len(numbers)
    assert permuted.min() >= 0 and permuted.max() < num


def test_one_by_one_is_the_same_as_many_at_once() -> None:
    many = permute(np.arange(777), num=777, key=11)
    assert [int(permute(np.asarray([i]), num=777, key=11)[0]) for i in range(0, 777, 7)] == many[::7].tolist()


@pytest.mark.parametrize(("num", "key", "first"), KNOWN_ANSWERS, ids=str)
def test_known_answers(num: int, key: int, first: list[int]) -> None:
    assert permute(np.arange(len(first)), num=num, key=key).tolist() == first


@pytest.mark.parametrize("num", [5, 64, 1000])
def test_each_place_is_equally_likely(num: int) -> None:
    """Over many keys a number lands in each tenth (or fifth) of the range equally often."""
    bins, keys = (5 if num == 5 else 10), 3000
    landed = np.asarray([int(permute(np.asarray([num // 3]), num=num, key=key)[0]) for key in range(keys)])
    counts = np.bincount(landed * bins // num, minlength=bins)
    expected = np.bincount(np.arange(num) * bins // num, minlength=bins) / num * keys
    assert ((counts - expected) ** 2 / expected).sum() < 27.9  # 99.9 % of chi-squared with 9 degrees of freedom


def test_neighbours_are_parted() -> None:
    order = permute(np.arange(10_000), num=10_000, key=3)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.04


@given(num=st.integers(1, 500), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 1000))
def test_an_epoch_holds_every_sample(num: int, seed: int, epoch: int) -> None:
    positions = epoch * num + np.arange(num)
    epochs, numbers = locate(positions, num_samples=num, seed=seed)
    assert (epochs == epoch).all()
    assert np.array_equal(np.sort(numbers), np.arange(num))


def test_positions_across_epochs() -> None:
    positions = np.asarray([99, 100, 101, 250, 3])
    epochs, numbers = locate(positions, num_samples=100, seed=1)
    assert epochs.tolist() == [0, 1, 1, 2, 0]
    alone = [locate(np.asarray([p]), num_samples=100, seed=1)[1][0] for p in positions]
    assert numbers.tolist() == alone


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [
        tuple(locate(epoch * 50 + np.arange(50), num_samples=50, seed=seed)[1]) for seed in (1, 2) for epoch in range(3)
    ]
    assert len(set(orders)) == 6
