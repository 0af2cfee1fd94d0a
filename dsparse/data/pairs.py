"""Next-sentence pairs, as BERT makes them (Devlin et al. 2018, https://arxiv.org/abs/1810.04805, appendix A.2).

A *chunk* is a run of consecutive sentences of one document that fills a sequence; a store's chunks are fixed, so an
epoch has a fixed number of samples. A sample cuts its chunk in two at a random sentence: A is the first part, B the
second (label 0, "follows") or, half of the time, sentences from another document (label 1, "random").

Differs: BERT makes a tenth of its sequences shorter on purpose and puts the sentences that a random B displaces back;
here lengths vary with the text alone, and displaced sentences come up in other epochs.

Shape legend: N sentences, C chunks, T sequence length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsparse.data.store import TokenStore

NUM_SPECIAL = 3
"""[CLS] A [SEP] B [SEP]"""


@dataclass(frozen=True)
class Chunks:
    """Chunk c is sentences first_C[c] … past_C[c] − 1, at least two of them, all of document document_C[c]."""

    first_C: NDArray[np.int64]
    past_C: NDArray[np.int64]
    document_C: NDArray[np.int64]

    @property
    def num_chunks(self) -> int:
        """C."""
        return len(self.first_C)


@dataclass(frozen=True)
class Pair:
    """Token ids of both segments, and whether B is from elsewhere."""

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    is_random: bool


def make_chunks(store: TokenStore, max_tokens: int) -> Chunks:
    """Cuts every document into chunks of at least two sentences and, beyond two, at most `max_tokens` tokens.

    A last sentence that would be alone takes the one before it along. Documents of one sentence have no chunk.
    """
    ends_N = np.cumsum(store.lengths_N, dtype=np.int64)
    starts_N = ends_N - store.lengths_N
    bounds = store.document_bounds
    document_N = np.repeat(np.arange(store.num_documents), np.diff(bounds))
    document_end_N = bounds[document_N + 1]
    # The first sentence that no longer fits behind each sentence, seen from that sentence alone.
    past_N = np.searchsorted(ends_N, starts_N + max_tokens, side="right")
    past_N = np.minimum(np.maximum(past_N, np.arange(len(ends_N)) + 2), document_end_N)
    past, document_end = past_N.tolist(), document_end_N.tolist()
    firsts, pasts = [], []
    for first in bounds[:-1][np.diff(bounds) >= 2].tolist():
        while first < document_end[first]:
            end = past[first]
            firsts.append(first if end - first >= 2 else first - 1)
            pasts.append(end)
            if end == document_end[first]:
                break
            first = end
    first_C = np.asarray(firsts, dtype=np.int64)
    return Chunks(first_C, np.asarray(pasts, dtype=np.int64), document_N[first_C] if len(first_C) else first_C)


def make_pair(store: TokenStore, chunks: Chunks, chunk: int, *, seq_length: int, random: np.random.Generator) -> Pair:
    """The segments of one sample, together at most `seq_length` − 3 tokens."""
    first, past = int(chunks.first_C[chunk]), int(chunks.past_C[chunk])
    cut = first + 1 + int(random.integers(past - first - 1))
    a = store.sentences(first, cut)
    is_random = bool(random.random() < 0.5)
    if is_random:
        b = _sentences_elsewhere(store, chunks, chunk, num_tokens=seq_length - NUM_SPECIAL - len(a), random=random)
    else:
        b = store.sentences(cut, past)
    a, b = _truncate(a.astype(np.int64), b.astype(np.int64), seq_length - NUM_SPECIAL, random)
    return Pair(a, b, is_random)


def _sentences_elsewhere(
    store: TokenStore, chunks: Chunks, chunk: int, *, num_tokens: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Sentences from a random place of another document, as many as fill `num_tokens`, at least one."""
    document = chunks.document_C[chunk]
    other = chunk
    while chunks.document_C[other] == document:
        other = int(random.integers(chunks.num_chunks))
    first, past = int(chunks.first_C[other]), int(store.document_bounds[chunks.document_C[other] + 1])
    first += int(random.integers(int(chunks.past_C[other]) - first))
    lengths = np.cumsum(store.lengths_N[first : min(past, first + max(1, num_tokens))])
    num_sentences = min(int(np.searchsorted(lengths, num_tokens)) + 1, len(lengths))
    return store.sentences(first, first + num_sentences)


def _truncate(
    a: NDArray[np.int64], b: NDArray[np.int64], max_tokens: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Takes tokens off the longer segment until both fit, each from its front or its end by a coin."""
    excess = len(a) + len(b) - max_tokens
    if excess <= 0:
        return a, b
    gap = len(a) - len(b)
    from_longer = min(excess, abs(gap))
    off_longer, off_shorter = from_longer + (excess - from_longer + 1) // 2, (excess - from_longer) // 2
    off_a, off_b = (off_longer, off_shorter) if gap >= 0 else (off_shorter, off_longer)
    front_a, front_b = int(random.binomial(off_a, 0.5)), int(random.binomial(off_b, 0.5))
    return a[front_a : len(a) - (off_a - front_a)], b[front_b : len(b) - (off_b - front_b)]
