"""Pairs of segments for next-sentence prediction (Devlin et al. 2018, https://arxiv.org/abs/1810.04805, appendix A.2).

A *window* is a run of consecutive sentences of one document that fills a sequence, or a little more; where windows lie
is said in `dsparse.data.windows`. An epoch has a fixed number of samples, one for each window. A sample cuts its window
at a random sentence. Segment A is what comes before; segment B is what comes after or, by a coin, text from a random
place of another document. The pair is then cut to length and laid out as [CLS] A [SEP] B [SEP].

As in BERT, a tenth of the samples is shorter on purpose, so that early positions are not all that a model knows.

Differs: BERT fills each sequence of a document in turn and leaves the rest to its last one; here a document's windows
are equally long, as far as its sentences allow. BERT puts the sentences that a random B has displaced back into its
queue, which makes the number of samples a matter of chance; here they come up in other epochs, when the coin falls the
other way. BERT flips a coin for each token too many, to take it from the front or the end of its segment; here the
number taken from the front is uniform, so that all parts of a very long sentence are seen. Documents of one sentence
have no window and serve as B alone.

Shapes: B samples, T tokens in a sequence, K sentences looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsparse.data.draw import Draws, below, draws, happens
from dsparse.data.shards import ShardedStore
from dsparse.data.vocabulary import Vocabulary
from dsparse.data.windows import Windows

NUM_SPECIAL = 3
"""[CLS], [SEP] and [SEP]."""
SHORT_PROBABILITY = 0.1
"""Share of the samples that are shorter on purpose: BERT's short_seq_prob."""

# What each draw of a sample decides.
_IS_RANDOM, _SPLIT, _IS_SHORT, _LENGTH, _ELSEWHERE, _CUT_A, _CUT_B = range(7)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Sequences before masking."""

    ids_BT: NDArray[np.int64]
    """Token ids with [CLS], [SEP] and, at the end, [PAD]."""
    token_types_BT: NDArray[np.int64]
    """1 at B and the [SEP] after it, else 0."""
    is_used_BT: NDArray[np.bool_]
    """False at padding."""
    is_text_BT: NDArray[np.bool_]
    """True at tokens of A and B: what may be masked."""
    is_random_B: NDArray[np.bool_]
    """Whether B comes from another document."""


def make_pairs(
    store: ShardedStore,
    windows: Windows,
    numbers_B: NDArray[np.int64],
    *,
    keys_B: Draws,
    seq_length: int,
    vocabulary: Vocabulary,
) -> Pairs:
    """The sequences of some windows, a pure function of the window and its key.

    Args:
        store: the split; it has at least two documents.
        windows: of the split, with room for `seq_length - NUM_SPECIAL` tokens.
        numbers_B: which windows, int64.
        keys_B: a key for each sample, from `dsparse.data.draw.draws`.
        seq_length: T.
        vocabulary: for the special ids.
    """
    max_tokens = seq_length - NUM_SPECIAL
    draw = {what: draws(keys_B, what) for what in range(_CUT_B + 1)}
    document_B, first_B, past_B = windows.find(numbers_B)

    short_B = 2 + below(draw[_LENGTH], max_tokens - 1)
    is_short_B = happens(draw[_IS_SHORT], SHORT_PROBABILITY)
    tokens_B = np.where(is_short_B, short_B, max_tokens)
    # A short sample is the beginning of its window, so that its two segments still touch.
    enough_B = np.maximum(_first_past(store, first_B, past_B, tokens_B), first_B + 2)
    past_B = np.where(is_short_B, enough_B, past_B)

    split_B = first_B + 1 + below(draw[_SPLIT], past_B - first_B - 1)
    a_begin_B, a_end_B = store.token_offsets(np.stack([first_B, split_B]))
    is_random_B = happens(draw[_IS_RANDOM], 0.5)
    elsewhere_B, document_end_B = _sentence_of_another_document(store, document_B, draw[_ELSEWHERE])
    needed_B = np.maximum(tokens_B - (a_end_B - a_begin_B), 1)
    elsewhere_past_B = _first_past(store, elsewhere_B, document_end_B, needed_B)
    b_begin_B, b_end_B = store.token_offsets(
        np.stack([np.where(is_random_B, elsewhere_B, split_B), np.where(is_random_B, elsewhere_past_B, past_B)])
    )

    num_a_B, num_b_B = shares(a_end_B - a_begin_B, b_end_B - b_begin_B, tokens_B)
    a_begin_B += below(draw[_CUT_A], a_end_B - a_begin_B - num_a_B + 1)
    b_begin_B += below(draw[_CUT_B], b_end_B - b_begin_B - num_b_B + 1)
    return _lay_out(
        store,
        segments=(a_begin_B, num_a_B, b_begin_B, num_b_B),
        is_random_B=is_random_B,
        seq_length=seq_length,
        special_ids=vocabulary.special_ids,
    )


def shares(
    num_a_B: NDArray[np.int64], num_b_B: NDArray[np.int64], max_tokens_B: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many tokens each segment keeps when the longer one gives up tokens until both fit; A wins a tie.

    Returns:
        Lengths of A and B, int64 [B] each, together at most max_tokens_B.
    """
    kept_a_B = np.minimum(num_a_B, np.maximum((max_tokens_B + 1) // 2, max_tokens_B - num_b_B))
    return kept_a_B, np.minimum(num_b_B, max_tokens_B - kept_a_B)


def _first_past(
    store: ShardedStore, first_B: NDArray[np.int64], past_B: NDArray[np.int64], tokens_B: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The end of the fewest sentences from `first_B` on that have `tokens_B` tokens, at most `past_B`; int64 [B]."""
    begin_B = store.token_offsets(first_B)
    num_looked_at = 16
    while True:
        ends_BK = np.minimum(first_B[:, None] + np.arange(1, num_looked_at + 1), past_B[:, None])
        is_enough_BK = store.token_offsets(ends_BK) - begin_B[:, None] >= tokens_B[:, None]
        is_enough_BK |= ends_BK == past_B[:, None]
        if is_enough_BK[:, -1].all():
            return ends_BK[np.arange(len(ends_BK)), is_enough_BK.argmax(axis=1)]
        num_looked_at *= 2


def _sentence_of_another_document(
    store: ShardedStore, documents_B: NDArray[np.int64], draws_B: Draws
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A sentence uniform over all documents but the given one, and the end of its document; int64 [B] each."""
    own_begin_B, own_end_B = store.document_bounds(np.stack([documents_B, documents_B + 1]))
    own_size_B = own_end_B - own_begin_B
    other_B = below(draws_B, store.num_sentences - own_size_B)
    other_B += np.where(other_B >= own_begin_B, own_size_B, 0)
    return other_B, store.document_bounds(store.documents_of(other_B) + 1)


def _lay_out(
    store: ShardedStore,
    *,
    segments: tuple[NDArray[np.int64], ...],
    is_random_B: NDArray[np.bool_],
    seq_length: int,
    special_ids: dict[str, int],
) -> Pairs:
    """[CLS] A [SEP] B [SEP] and padding, from the first token and the length of A and of B."""
    a_begin, num_a, b_begin, num_b = (values_B[:, None] for values_B in segments)
    places = np.arange(seq_length)[None]
    b_first, end = num_a + 2, num_a + num_b + 3
    is_a, is_b = (places >= 1) & (places <= num_a), (places >= b_first) & (places < end - 1)
    is_text = is_a | is_b
    source = np.where(is_a, a_begin + places - 1, b_begin + places - b_first)
    ids = np.full(is_text.shape, special_ids["sep"], np.int64)
    ids[is_text] = store.tokens_at(source[is_text])
    ids[:, 0] = special_ids["cls"]
    is_used = places < end
    ids[~is_used] = special_ids["pad"]
    return Pairs(ids, ((places >= b_first) & is_used).astype(np.int64), is_used, is_text, is_random_B)
