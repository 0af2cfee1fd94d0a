"""What a run sees of real text, in numbers: BERT's shares, held to within the standard error of drawing them.

The seeds are fixed. A bound is four standard errors of a binomial share, which one seed in 16 000 would exceed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dsparse.data.loader import PretrainingData
from dsparse.data.sampler import locate
from dsparse.data.vocabulary import Vocabulary
from tests.data.store_fixture import make_small_store

NUM_EPOCHS = 4


@dataclass(frozen=True, eq=False)
class Seen:
    """Some epochs of training text, [B, T] each."""

    inputs: np.ndarray
    labels: np.ndarray
    is_used: np.ndarray
    is_random: np.ndarray
    """[B]."""
    vocabulary: Vocabulary

    @classmethod
    def of(cls, store: Path, *, whole_word: bool = True) -> Seen:
        data = PretrainingData(store, seq_length=128, seed=11, whole_word=whole_word)
        batch = data.batch(np.arange(NUM_EPOCHS * data.num_samples_per_epoch))
        return cls(
            inputs=batch["input_ids"],
            labels=batch["labels"],
            is_used=batch["attention_mask"] == 1,
            is_random=batch["next_sentence_label"],
            vocabulary=data.vocabulary,
        )

    @property
    def is_labelled(self) -> np.ndarray:
        return self.labels != -100

    @property
    def original(self) -> np.ndarray:
        """The text before it was hidden."""
        return np.where(self.is_labelled, self.labels, self.inputs)

    @property
    def is_text(self) -> np.ndarray:
        """Found by the layout alone: [CLS] A [SEP] B [SEP] and padding."""
        ids = self.vocabulary.special_ids
        return self.is_used & (self.original != ids["cls"]) & (self.original != ids["sep"])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_store(tmp_path_factory.mktemp("statistics") / "store")


@pytest.fixture(scope="module")
def seen(store: Path) -> Seen:
    return Seen.of(store)


def assert_share(num: int, of: int, expected: float) -> None:
    standard_error = math.sqrt(expected * (1 - expected) / of)
    assert abs(num / of - expected) < 4 * standard_error, (num / of, expected, standard_error)


def test_it_is_enough_text_to_tell(seen: Seen) -> None:
    assert seen.is_text.sum() > 500_000 and len(seen.inputs) > 5000


@pytest.mark.parametrize("whole_word", [True, False])
def test_fifteen_percent_are_labelled(store: Path, whole_word: bool) -> None:
    seen = Seen.of(store, whole_word=whole_word)
    assert_share(int(seen.is_labelled.sum()), int(seen.is_text.sum()), 0.15)
    # And so in each sample: a share of its own text, at least one.
    wanted = np.maximum(np.rint(0.15 * seen.is_text.sum(axis=1)), 1)
    found = seen.is_labelled.sum(axis=1)
    assert found.min() >= 1
    is_exact = found == wanted
    assert is_exact.all() if not whole_word else is_exact.mean() > 0.97


def test_of_those_eighty_percent_are_masked_ten_replaced_and_ten_kept(seen: Seen) -> None:
    inputs, labels = seen.inputs[seen.is_labelled], seen.labels[seen.is_labelled]
    by_chance = 0.1 / len(seen.vocabulary.ordinary_ids)  # a random token that is the original one
    is_masked, is_kept = inputs == seen.vocabulary.special_ids["mask"], inputs == labels
    assert_share(int(is_masked.sum()), len(labels), 0.8)
    assert_share(int(is_kept.sum()), len(labels), 0.1 + by_chance)
    assert_share(int((~is_masked & ~is_kept).sum()), len(labels), 0.1 - by_chance)


def test_a_replacement_is_any_ordinary_token(seen: Seen) -> None:
    special = seen.vocabulary.special_ids
    is_replaced = seen.is_labelled & (seen.inputs != special["mask"]) & (seen.inputs != seen.labels)
    counts = np.bincount(seen.inputs[is_replaced], minlength=seen.vocabulary.size)
    ordinary = counts[seen.vocabulary.ordinary_ids]
    assert counts.sum() == ordinary.sum()
    # Chi-squared is about normal with so many degrees of freedom: their number, and the root of twice that.
    expected, freedom = ordinary.mean(), len(ordinary) - 1
    assert expected > 5
    assert abs(((ordinary - expected) ** 2 / expected).sum() - freedom) < 4 * math.sqrt(2 * freedom)


def test_words_are_hidden_whole(seen: Seen) -> None:
    original, is_text = seen.original, seen.is_text
    goes_on = seen.vocabulary.continues_word_V[original[:, 1:]] & is_text[:, 1:] & is_text[:, :-1]
    assert goes_on.sum() > 100_000
    assert (seen.is_labelled[:, 1:] == seen.is_labelled[:, :-1])[goes_on].all()


def test_pieces_by_themselves_are_hidden_as_often_as_others(store: Path) -> None:
    """Without whole words, the share of a kind of token among the labelled ones is its share in the text."""
    seen = Seen.of(store, whole_word=False)
    original, continues_V = seen.original, seen.vocabulary.continues_word_V
    share = continues_V[original[seen.is_text]].mean()
    assert 0.1 < share < 0.9
    assert_share(int(continues_V[seen.labels[seen.is_labelled]].sum()), int(seen.is_labelled.sum()), share)


def test_special_tokens_are_never_hidden(seen: Seen) -> None:
    ids = seen.vocabulary.special_ids
    assert not (seen.is_labelled & ~seen.is_text).any()
    assert not np.isin(seen.labels, [ids["cls"], ids["sep"], ids["pad"], ids["mask"]]).any()
    assert (seen.inputs[:, 0] == ids["cls"]).all() and (seen.inputs[:, 1:] != ids["cls"]).all()
    assert ((seen.inputs == ids["sep"]).sum(axis=1) == 2).all()
    last = seen.is_used.sum(axis=1) - 1
    assert (seen.inputs[np.arange(len(last)), last] == ids["sep"]).all()
    assert ((seen.inputs == ids["pad"]) == ~seen.is_used).all()


def test_half_of_the_second_segments_are_from_elsewhere(seen: Seen) -> None:
    num = len(seen.is_random)
    assert_share(int(seen.is_random.sum()), num, 0.5)
    # Drawn anew in each epoch, and each sample by itself: neighbours agree half of the time.
    for epoch in np.split(seen.is_random, NUM_EPOCHS):
        assert_share(int(epoch.sum()), len(epoch), 0.5)
    assert_share(int((seen.is_random[1:] == seen.is_random[:-1]).sum()), num - 1, 0.5)


def test_a_sample_draws_its_coin_anew_in_each_epoch(store: Path) -> None:
    data = PretrainingData(store, seq_length=128, seed=11)
    n = data.num_samples_per_epoch
    by_window = []  # the order of an epoch hides from which window a sample is
    for epoch in range(2):
        positions = np.arange(epoch * n, (epoch + 1) * n)
        _, numbers = locate(positions, num_samples=n, seed=11)
        coins = np.empty(n, np.int64)
        coins[numbers] = data.batch(positions)["next_sentence_label"]
        by_window.append(coins)
    assert_share(int((by_window[0] == by_window[1]).sum()), n, 0.5)
