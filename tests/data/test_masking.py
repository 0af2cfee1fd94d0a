"""Whole-word masking: words are never split, special tokens never touched, shares are BERT's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsparse.data.draw import draws
from dsparse.data.masking import NOT_LABELLED, mask_tokens
from dsparse.data.vocabulary import Vocabulary
from tests.data.small import NUM_SPECIAL_IDS, write_tokenizer

# Ids: 0 … 4 special, 5 … 64 whole words, 65 … 99 pieces that go on a word.
FIRST_PIECE, SIZE, MASK = 65, 100, 4


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return write_tokenizer(Path(tmp_path_factory.mktemp("vocabulary")) / "tokenizer.json")


def sequences(seed: int, num: int, seq_length: int, piece_share: float) -> tuple[np.ndarray, np.ndarray]:
    """Random text laid out as pairs are: ids [B, T] and where the text is."""
    random = np.random.default_rng(seed)
    ids = np.where(
        random.random((num, seq_length)) < piece_share,
        random.integers(FIRST_PIECE, SIZE, (num, seq_length)),
        random.integers(NUM_SPECIAL_IDS, FIRST_PIECE, (num, seq_length)),
    )
    ends = random.integers(4, seq_length + 1, num)
    middles = random.integers(2, ends - 1)
    places = np.arange(seq_length)
    is_text = (places > 0) & (places < ends[:, None] - 1) & (places != middles[:, None])
    ids[:, 0] = 2
    ids[np.arange(num), middles] = ids[np.arange(num), ends - 1] = 3
    ids[places >= ends[:, None]] = 0
    return ids, is_text


def words_of(ids: np.ndarray, is_text: np.ndarray) -> list[list[int]]:
    """Places of each word of one sequence, as one would find them by eye."""
    words: list[list[int]] = []
    for place in np.flatnonzero(is_text):
        if words and ids[place] >= FIRST_PIECE and words[-1][-1] == place - 1:
            words[-1].append(int(place))
        else:
            words.append([int(place)])
    return words


ARGUMENTS = {
    "seed": st.integers(0, 10**6),
    "seq_length": st.integers(8, 70),
    "piece_share": st.sampled_from([0.0, 0.3, 0.7, 0.95]),
    "probability": st.sampled_from([0.05, 0.15, 0.5, 1.0]),
}


@given(**ARGUMENTS)
def test_words_are_whole_and_specials_untouched(
    vocabulary: Vocabulary, seed: int, seq_length: int, piece_share: float, probability: float
) -> None:
    ids, is_text = sequences(seed, 8, seq_length, piece_share)
    before = ids.copy()
    inputs, labels = mask_tokens(
        ids, is_text, draws(seed, np.arange(8)), vocabulary=vocabulary, probability=probability
    )
    is_labelled = labels != NOT_LABELLED
    assert np.array_equal(ids, before)
    assert not (is_labelled & ~is_text).any()
    assert np.array_equal(labels[is_labelled], ids[is_labelled])
    assert np.array_equal(inputs[~is_labelled], ids[~is_labelled])
    assert ((inputs[is_labelled] == MASK) | (inputs[is_labelled] >= NUM_SPECIAL_IDS)).all()
    for row in range(8):
        words = words_of(ids[row], is_text[row])
        chosen = [is_labelled[row][word] for word in words]
        assert all(marks.all() or not marks.any() for marks in chosen)
        lengths = sorted(len(word) for word in words)
        room = max(1, round(probability * is_text[row].sum()))
        num_labelled = int(is_labelled[row].sum())
        # At least one word; more than the share only if that one word alone is longer.
        assert num_labelled >= 1
        assert num_labelled <= room or any(num_labelled == n for n in lengths)
        # No word that would still have fitted was left out.
        left = [len(word) for word, marks in zip(words, chosen, strict=True) if not marks.any()]
        assert all(num_labelled + length > room for length in left)


@given(seed=st.integers(0, 10**6))
def test_single_pieces(vocabulary: Vocabulary, seed: int) -> None:
    ids, is_text = sequences(seed, 8, 64, 0.7)
    _, labels = mask_tokens(ids, is_text, draws(seed, np.arange(8)), vocabulary=vocabulary, whole_word=False)
    room = np.maximum(np.rint(is_text.sum(axis=1) * 0.15), 1)
    assert ((labels != NOT_LABELLED).sum(axis=1) == room).all()


def test_shares(vocabulary: Vocabulary) -> None:
    ids, is_text = sequences(1, 5000, 128, 0.3)
    inputs, labels = mask_tokens(ids, is_text, draws(1, np.arange(5000)), vocabulary=vocabulary)
    is_labelled = labels != NOT_LABELLED
    assert abs(is_labelled.sum() / is_text.sum() - 0.15) < 0.003
    num = is_labelled.sum()
    masked = (inputs[is_labelled] == MASK).sum() / num
    kept = (inputs[is_labelled] == ids[is_labelled]).sum() / num
    by_chance = 0.1 / len(vocabulary.ordinary_ids)
    assert abs(masked - 0.8) < 0.006 and abs(kept - 0.1 - by_chance) < 0.005
    replaced = inputs[is_labelled & (inputs != MASK) & (inputs != ids)]
    counts = np.bincount(replaced, minlength=SIZE)
    assert (counts[:NUM_SPECIAL_IDS] == 0).all()
    expected = len(replaced) / len(vocabulary.ordinary_ids)
    assert ((counts[NUM_SPECIAL_IDS:] - expected) ** 2 / expected).sum() < 142  # 99.9 % of chi-squared, 94 degrees


def test_every_place_is_labelled_equally_often(vocabulary: Vocabulary) -> None:
    ids = np.full((20_000, 32), 10)
    is_text = np.ones_like(ids, bool)
    _, labels = mask_tokens(ids, is_text, draws(2, np.arange(20_000)), vocabulary=vocabulary)
    often = (labels != NOT_LABELLED).mean(axis=0)
    assert abs(often - 5 / 32).max() < 0.011  # four standard deviations


def test_a_word_that_is_cut_off_begins_anew(vocabulary: Vocabulary) -> None:
    """A piece behind [CLS] or [SEP] is a word by itself: what it went on with is not there."""
    ids = np.asarray([[2, 70, 71, 10, 3, 72, 73, 3]])
    is_text = np.asarray([[False, True, True, True, False, True, True, False]])
    chosen = set()
    for key in range(200):
        _, labels = mask_tokens(ids, is_text, draws(key, 0), vocabulary=vocabulary, probability=0.01)
        chosen.add(tuple(np.flatnonzero(labels[0] != NOT_LABELLED).tolist()))
    # One token has room: the word of one piece fits, and the two longer ones never do.
    assert chosen == {(3,)}
    for key in range(200):
        _, labels = mask_tokens(ids, is_text, draws(key, 0), vocabulary=vocabulary, probability=0.4)
        chosen.add(tuple(np.flatnonzero(labels[0] != NOT_LABELLED).tolist()))
    assert chosen == {(3,), (1, 2), (5, 6)}


def test_masks_are_a_function_of_the_key(vocabulary: Vocabulary) -> None:
    ids, is_text = sequences(5, 30, 64, 0.3)
    keys = draws(5, np.arange(30))
    whole = mask_tokens(ids, is_text, keys, vocabulary=vocabulary)
    for row in range(30):
        one = slice(row, row + 1)
        alone = mask_tokens(ids[one], is_text[one], keys[one], vocabulary=vocabulary)
        assert all(np.array_equal(a[0], w[row]) for a, w in zip(alone, whole, strict=True))
    other = mask_tokens(ids, is_text, draws(6, np.arange(30)), vocabulary=vocabulary)
    assert not np.array_equal(other[1], whole[1])


def test_a_sequence_without_text_has_no_label(vocabulary: Vocabulary) -> None:
    ids = np.asarray([[2, 3, 3, 0]])
    inputs, labels = mask_tokens(ids, np.zeros_like(ids, bool), draws(1, 0), vocabulary=vocabulary)
    assert np.array_equal(inputs, ids) and (labels == NOT_LABELLED).all()
