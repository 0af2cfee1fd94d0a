"""Dynamic masking of whole words: which tokens are hidden is drawn anew each epoch, by (seed, epoch, sample).

15 % of the tokens are chosen, whole words at a time (a word is a token and the continuation pieces behind it). Of the
chosen tokens 80 % become [MASK], 10 % a random token and 10 % stay (Devlin et al. 2018, section 3.1; whole words as in
arXiv 2108.06277, section 3).

Shape legend: T sequence length, V vocabulary, W words of the sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORED = -100
"""Label of a position that is not predicted; torch's cross entropy leaves it out."""


@dataclass(frozen=True)
class Vocabulary:
    """What masking must know of the tokenizer."""

    size: int
    mask_id: int
    is_continuation_V: NDArray[np.bool_]
    """True at pieces that continue a word ("##ing")."""
    ordinary_ids: NDArray[np.int64]
    """Ids that may stand in for a hidden token: all but the special ones."""


def mask_tokens(
    ids_T: NDArray[np.int64],
    maskable_T: NDArray[np.bool_],
    vocabulary: Vocabulary,
    *,
    probability: float,
    whole_word: bool,
    random: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hides words of a sequence.

    Args:
        ids_T: token ids.
        maskable_T: true at tokens of text, false at [CLS], [SEP] and padding.
        vocabulary: of the tokenizer.
        probability: share of the text's tokens to choose; words are taken in random order while they fit, at least one.
        whole_word: choose words, not single tokens.
        random: the sample's generator.

    Returns:
        (input ids, labels): labels are the hidden ids where a token was chosen and -100 elsewhere.
    """
    places = np.flatnonzero(maskable_T)
    labels_T = np.full(len(ids_T), IGNORED, dtype=np.int64)
    if len(places) == 0:
        return ids_T.copy(), labels_T
    begins = np.ones(len(places), dtype=bool)
    if whole_word:
        # A piece that continues nothing (its word was cut off before it) begins a word of its own.
        begins[1:] = ~vocabulary.is_continuation_V[ids_T[places[1:]]] | (np.diff(places) > 1)
    word_of = np.cumsum(begins) - 1
    lengths_W = np.bincount(word_of)
    order_W = random.permutation(len(lengths_W))
    num_wanted = max(1, round(probability * len(places)))
    num_words = max(1, int(np.searchsorted(np.cumsum(lengths_W[order_W]), num_wanted, side="right")))
    is_chosen_W = np.zeros(len(lengths_W), dtype=bool)
    is_chosen_W[order_W[:num_words]] = True
    chosen = places[is_chosen_W[word_of]]
    labels_T[chosen] = ids_T[chosen]
    lot = random.random(len(chosen))
    substitutes = vocabulary.ordinary_ids[random.integers(len(vocabulary.ordinary_ids), size=len(chosen))]
    masked_T = ids_T.copy()
    masked_T[chosen] = np.where(lot < 0.8, vocabulary.mask_id, np.where(lot < 0.9, substitutes, ids_T[chosen]))
    return masked_T, labels_T
