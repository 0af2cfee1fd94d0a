"""Dynamic masking of whole words: which tokens are hidden is a pure function of a sample's key, new in each epoch.

A word is a piece and the pieces that go on with it ("##ing"). Words are taken in random order, each if it still fits
into 15 % of the text's tokens, and all pieces of a word are labelled together. Of the labelled tokens 80 % become
[MASK], 10 % a random ordinary token and 10 % stay, each token by itself. Source: BERT's create_pretraining_data.py with
--do_whole_word_mask, https://github.com/google-research/bert; whole words as in arXiv 2108.06277, section 3.

Differs: BERT counts [CLS] and [SEP] into the 15 % and may draw a special token as the random one.

Shapes: B samples, T tokens in a sequence, V vocabulary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dsparse.data.draw import Draws, below, draws, happens
from dsparse.data.vocabulary import Vocabulary

NOT_LABELLED = -100
"""Label of a token that is not predicted; torch's cross entropy leaves it out."""
MASK_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Of the labelled tokens; the rest stays as it is."""


def mask_tokens(
    ids_BT: NDArray[np.int64],
    is_text_BT: NDArray[np.bool_],
    keys_B: Draws,
    *,
    vocabulary: Vocabulary,
    probability: float = 0.15,
    whole_word: bool = True,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hides words of each sequence.

    Args:
        ids_BT: token ids.
        is_text_BT: where a token may be hidden: not at [CLS], [SEP] and padding.
        keys_B: a key for each sample, from `dsparse.data.draw.draws`.
        vocabulary: of the tokenizer.
        probability: share of the text's tokens to label, at least one word.
        whole_word: label whole words; else each piece is a word.

    Returns:
        Input ids with hidden tokens, and labels: the original ids where labelled, else -100. int64 [B, T] each.
    """
    place_T = np.arange(ids_BT.shape[1])
    order_BT, fate_BT, substitute_BT = (
        draws(keys_B[:, None], place_T[None] + purpose * len(place_T)) for purpose in range(3)
    )
    begins_BT = is_text_BT.copy()
    if whole_word:
        # A piece goes on with a word only if there is one: at the front of a cut segment there is none.
        begins_BT[:, 1:] &= ~(vocabulary.continues_word_V[ids_BT[:, 1:]] & is_text_BT[:, :-1])
    is_labelled_BT = _choose_words(begins_BT, is_text_BT, order_BT, probability)

    labels_BT = np.where(is_labelled_BT, ids_BT, NOT_LABELLED)
    is_hidden_BT = is_labelled_BT & happens(fate_BT, MASK_SHARE + RANDOM_SHARE)
    is_masked_BT = is_labelled_BT & happens(fate_BT, MASK_SHARE)
    random_BT = vocabulary.ordinary_ids[below(substitute_BT, len(vocabulary.ordinary_ids))]
    input_ids_BT = np.where(is_hidden_BT, random_BT, ids_BT)
    input_ids_BT[is_masked_BT] = vocabulary.special_ids["mask"]
    return input_ids_BT, labels_BT


def _choose_words(
    begins_BT: NDArray[np.bool_], is_text_BT: NDArray[np.bool_], order_BT: Draws, probability: float
) -> NDArray[np.bool_]:
    """Takes words in random order while they fit.

    Args:
        begins_BT: first piece of each word.
        is_text_BT: all pieces.
        order_BT: draws by whose size words are ordered.
        probability: share of the pieces to take.

    Returns:
        The pieces of the chosen words, bool [B, T].
    """
    num_samples, num_places = begins_BT.shape
    rows_B1 = np.arange(num_samples)[:, None]
    begin_of_word_BT = np.maximum.accumulate(np.where(begins_BT, np.arange(num_places), 0), axis=1)
    pieces_BT = np.bincount((rows_B1 * num_places + begin_of_word_BT)[is_text_BT], minlength=begins_BT.size)
    pieces_BT = pieces_BT.reshape(begins_BT.shape)

    # A draw with the place in its lowest bits sorts several times faster than an argsort, and has no ties.
    place_bits = np.uint64((1 << (num_places - 1).bit_length()) - 1)
    tagged_BT = (order_BT & ~place_bits) | np.arange(num_places, dtype=np.uint64)
    tagged_BT[~begins_BT] = np.iinfo(np.uint64).max
    tagged_BT.sort(axis=1)
    places_BT = np.minimum(tagged_BT & place_bits, np.uint64(num_places - 1)).astype(np.int64)
    num_words_B1 = begins_BT.sum(axis=1, keepdims=True)
    pieces_in_order_BT = np.where(np.arange(num_places) < num_words_B1, pieces_BT[rows_B1, places_BT], 0)

    num_text_B = is_text_BT.sum(axis=1)
    room_B = np.maximum(np.rint(num_text_B * probability).astype(np.int64), 1)
    is_taken_TB = np.zeros((num_places, num_samples), bool)
    for is_taken_B, pieces_B in zip(is_taken_TB, np.ascontiguousarray(pieces_in_order_BT.T), strict=True):
        np.logical_and(pieces_B > 0, pieces_B <= room_B, out=is_taken_B)
        room_B -= pieces_B * is_taken_B
        if not room_B.any() or not pieces_B.any():
            break
    # Where every word is longer than the share, one is taken all the same: a sample without a label teaches nothing.
    is_taken_TB[0] |= ~is_taken_TB.any(axis=0) & (num_text_B > 0)

    begins_taken_BT = np.zeros_like(begins_BT)
    rows, ranks = np.nonzero(is_taken_TB.T)
    begins_taken_BT[rows, places_BT[rows, ranks]] = True
    return begins_taken_BT[rows_B1, begin_of_word_BT] & is_text_BT
