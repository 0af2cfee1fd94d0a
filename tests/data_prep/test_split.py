"""Which documents are held out, drawn for the vocabulary and stored twice: by text alone, in the share asked for."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.split import heldout_bound, is_heldout, is_in_share, num_copies, place_of

NUM = 20_000
HASHES = np.array([place_of(f"document {n}\nsecond sentence", seed=42) for n in range(NUM)], np.uint64)
TWO = np.full(NUM, 2)


def test_a_place_depends_on_text_and_seed_alone() -> None:
    assert place_of("a\nb", 1) == place_of("a\nb", 1) < 2**64
    assert len({place_of("a\nb", 1), place_of("a\nb", 2), place_of("a b", 1), place_of("a", 1)}) == 4


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.9])
def test_the_fraction_is_held_out(fraction: float) -> None:
    bound = heldout_bound([(HASHES[:7], TWO[:7]), (HASHES[7:], TWO[7:])], fraction=fraction)
    standard_error = (fraction * (1 - fraction) / NUM) ** 0.5
    assert abs(is_heldout(HASHES, bound).mean() - fraction) < 4 * standard_error


def test_at_least_two_with_a_pair_are_held_out() -> None:
    sizes = np.where(np.arange(NUM) % 10 == 0, 2, 1)
    bound = heldout_bound([(HASHES, sizes)], fraction=1e-9)
    assert (is_heldout(HASHES, bound) & (sizes >= 2)).sum() == 2


def test_the_bound_does_not_depend_on_how_documents_are_parted() -> None:
    parts = [(HASHES[n : n + 999], TWO[n : n + 999]) for n in range(0, NUM, 999)]
    assert heldout_bound(parts, fraction=1e-9) == heldout_bound([(HASHES, TWO)], fraction=1e-9)


def test_others_move_nobody() -> None:
    some = heldout_bound([(HASHES[:5000], TWO[:5000])], fraction=0.1)
    more = heldout_bound([(HASHES, TWO)], fraction=0.1)
    assert some == more


def test_one_document_or_none_is_no_reason_to_hold_out_all() -> None:
    empty = np.empty(0, np.uint64)
    assert heldout_bound([(empty, np.empty(0, np.int64))], fraction=0.5) == 2**63
    assert heldout_bound([], fraction=0.5) == 2**63


def test_nearly_all_fits_the_integers() -> None:
    assert heldout_bound([(HASHES, TWO)], fraction=1 - 1e-17) == 2**64 - 1


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_a_share_for_the_vocabulary_is_drawn_apart_from_the_split(share: float) -> None:
    drawn, heldout = is_in_share(HASHES, share), is_heldout(HASHES, 2**63)
    for some in (drawn, drawn[heldout], drawn[~heldout]):
        assert abs(some.mean() - share) <= 4 * (share * (1 - share) / len(some)) ** 0.5


@pytest.mark.parametrize(("weight", "numbers"), [(1.0, {1}), (2.0, {2}), (0.3, {0, 1}), (2.25, {2, 3})])
def test_copies(weight: float, numbers: set[int]) -> None:
    copies = num_copies(HASHES, weight)
    assert set(copies.tolist()) == numbers
    assert abs(copies.mean() - weight) <= 4 * 0.5 / NUM**0.5
