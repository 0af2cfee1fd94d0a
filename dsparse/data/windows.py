"""Windows: the runs of consecutive sentences of a document that samples are made of, by formula and not by a list.

A document of S >= 2 sentences and n tokens has ceil(n / (L + floor(n / 2S))) windows, L being the tokens that fill a
sequence; with fewer sentences it has none. Its tokens are divided into so many equal stretches, and a window is what
lies between the two sentence bounds that are nearest to the ends of its stretch. So windows share the sentences of a
document out among them, where sentences are short. A window always has two sentences: one with fewer takes the next, at
the end of its document the one before. A sentence longer than its stretch is in several windows, and each sample of
them cuts another part of it.

Stretches are half a mean sentence longer than a sequence, for by so much at least sentences pass its end that are taken
until it is full, as BERT takes them. Padding is about as much as with BERT's, though a document has no short window at
its end, and fewer tokens are cut off (docs/benchmarks.md).

A number is found by a table of the windows before every 64th document, which is all that is kept in memory. Making the
table looks at the bounds of documents alone.

Shapes: B windows, D documents, G documents of a group, C groups.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dsparse.data.search import last_not_above
from dsparse.data.shards import ShardedStore

_GROUP = 64
_GROUPS_AT_ONCE = 1 << 10


class Windows:
    """The windows of a split, numbered from 0 in the order of their documents."""

    def __init__(self, store: ShardedStore, max_tokens: int) -> None:
        """Counts the windows of every document.

        Args:
            store: the split.
            max_tokens: L, tokens that fill a window.
        """
        self._store, self._max_tokens = store, max_tokens
        with store.in_order():
            self._before_C = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._windows_of_groups())])

    def __len__(self) -> int:
        return int(self._before_C[-1])

    def find(self, numbers_B: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Where windows are.

        Args:
            numbers_B: int64, 0 <= number < len(self).

        Returns:
            The document, the first sentence and the sentence after the last of each window, int64 [B] each; at least
            two sentences, all of the document.
        """
        groups_B = np.searchsorted(self._before_C, numbers_B, side="right") - 1
        bounds_BG, offsets_BG, counts_BG = self._documents(groups_B[:, None] * _GROUP + np.arange(_GROUP + 1))
        past_BG = np.cumsum(counts_BG, axis=1)
        places_B = numbers_B - self._before_C[groups_B]
        in_group_B = (past_BG <= places_B[:, None]).sum(axis=1)

        at = np.arange(len(numbers_B)), in_group_B
        after = at[0], in_group_B + 1
        stretches_B = places_B - (past_BG[at] - counts_BG[at])
        first_B, past_B = self._between(
            np.stack([stretches_B, stretches_B + 1]),
            num_stretches_B=counts_BG[at],
            sentences=(bounds_BG[at], bounds_BG[after]),
            tokens=(offsets_BG[at], offsets_BG[after]),
        )
        return groups_B * _GROUP + in_group_B, first_B, past_B

    def _between(
        self,
        ends_2B: NDArray[np.int64],
        *,
        num_stretches_B: NDArray[np.int64],
        sentences: tuple[NDArray[np.int64], NDArray[np.int64]],
        tokens: tuple[NDArray[np.int64], NDArray[np.int64]],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The windows of stretches of documents.

        Args:
            ends_2B: numbers of the stretches, and of those after them.
            num_stretches_B: of the document.
            sentences: first and past sentence of the document.
            tokens: first and past token of the document.
        """
        (begin_B, end_B), (token_B, end_token_B) = sentences, tokens
        # floor(stretch * tokens / stretches), whose product could be beyond 64 bits.
        length_B, rest_B = np.divmod(end_token_B - token_B, num_stretches_B)
        cuts_2B = token_B + ends_2B * length_B + ends_2B * rest_B // num_stretches_B
        low_2B, past_2B = np.broadcast_to(begin_B, cuts_2B.shape), np.broadcast_to(end_B, cuts_2B.shape)
        around_2B = last_not_above(self._store.token_offsets, cuts_2B, low_2B, past_2B)
        before_2B, after_2B = self._store.token_offsets(np.stack([around_2B, around_2B + 1]))
        first_B, past_B = around_2B + (cuts_2B - before_2B > after_2B - cuts_2B)
        # Both ends of a stretch within a sentence can be nearest to the same bound, and that be the sentence's end.
        first_B = np.minimum(np.minimum(first_B, around_2B[1]), end_B - 2)
        return first_B, np.maximum(past_B, first_B + 2)

    def _documents(
        self, documents: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """First sentence and first token of consecutive documents and of the one after; how many windows each has.

        Args:
            documents: int64 [..., G + 1], ascending by one; beyond the last document there are empty ones.

        Returns:
            int64 [..., G + 1], [..., G + 1] and [..., G].
        """
        bounds = self._store.document_bounds(np.minimum(documents, self._store.num_documents))
        offsets = self._store.token_offsets(bounds)
        sizes, tokens = np.diff(bounds), np.diff(offsets)
        lengths = self._max_tokens + tokens // np.maximum(2 * sizes, 1)
        return bounds, offsets, np.where(sizes >= 2, -(-tokens // lengths), 0)

    def _windows_of_groups(self) -> NDArray[np.int64]:
        """Windows of every `_GROUP` documents, int64 [C]."""
        num_groups = -(-self._store.num_documents // _GROUP)
        parts = [np.empty(0, np.int64)]
        for first in range(0, num_groups, _GROUPS_AT_ONCE):
            num_documents = min(_GROUPS_AT_ONCE, num_groups - first) * _GROUP
            _, _, counts = self._documents(first * _GROUP + np.arange(num_documents + 1))
            parts.append(counts.reshape(-1, _GROUP).sum(axis=1))
        return np.concatenate(parts)
