"""Held-out documents: the fraction asked for, chosen by text alone, and never too few."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.split import heldout_bound, split_of

DOCUMENTS = [[f"Sentence {i}.", "Another one."] for i in range(5000)]


def heldout(documents: list[list[str]], *, bound: float, seed: int = 1) -> list[list[str]]:
    return [document for document in documents if split_of(document, bound=bound, seed=seed) == "heldout"]


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_the_fraction_is_held_out(fraction: float) -> None:
    bound = heldout_bound(DOCUMENTS, fraction=fraction, seed=1)
    assert bound == fraction
    share = len(heldout(DOCUMENTS, bound=bound)) / len(DOCUMENTS)
    assert abs(share - fraction) < 3.5 * (fraction * (1 - fraction) / len(DOCUMENTS)) ** 0.5


def test_seeds_hold_out_others() -> None:
    one, other = (heldout(DOCUMENTS, bound=0.1, seed=seed) for seed in (1, 2))
    assert 0 < len([document for document in one if document in other]) < 0.2 * len(one)


@given(num_documents=st.integers(2, 30), num_single=st.integers(0, 5), seed=st.integers(0, 100))
def test_two_pairs_are_held_out_of_the_smallest_corpus(num_documents: int, num_single: int, seed: int) -> None:
    documents = DOCUMENTS[:num_documents] + [[f"Alone {i}."] for i in range(num_single)]
    bound = heldout_bound(documents, fraction=1e-9, seed=seed)
    assert sum(len(document) >= 2 for document in heldout(documents, bound=bound, seed=seed)) == 2


def test_a_large_corpus_is_not_read_to_its_end() -> None:
    def endless() -> chain[list[str]]:
        return chain(DOCUMENTS, (pytest.fail("read on") for _ in range(1)))

    assert heldout_bound(endless(), fraction=0.03, seed=1) == 0.03


def test_nothing_to_choose_from() -> None:
    assert heldout_bound([], fraction=0.03, seed=1) == 0.03
    assert heldout_bound([["Alone."]], fraction=0.03, seed=1) == 0.03
