"""The numbers of a store: how often each token occurs, and how long documents and sentences are.

One pass over its shards, in memory that grows with the vocabulary and not with the store.

Shapes: V vocabulary, L = LONGEST + 1 lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.pipeline.progress import Advance
from dsparse.data.manifest import Manifest
from dsparse.data.store import TokenStore
from dsparse.data.vocabulary import Vocabulary
from dsparse.errors import UserError

LONGEST = 1 << 20
"""Tokens from which lengths are no longer told apart."""
# The counted tokens as int64 stay in the processor's cache; larger chunks are slower.
_CHUNK = 1 << 17

Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Lengths:
    """How many documents, or sentences, there are of each length."""

    counts_L: Counts
    """By length in tokens; the last one counts all from LONGEST on."""
    longest: int
    """Tokens, in full."""

    @property
    def count(self) -> int:
        """Of all lengths."""
        return int(self.counts_L.sum())

    @property
    def median(self) -> int:
        """The lower one of two; 0 if there is none of any length."""
        return int(np.searchsorted(np.cumsum(self.counts_L), (self.count + 1) // 2)) if self.count else 0


@dataclass(frozen=True, kw_only=True, eq=False)
class StoreNumbers:
    """What was counted, over all splits."""

    token_counts_V: Counts
    documents: Lengths
    sentences: Lengths
    vocabulary: Vocabulary
    num_bytes: int
    """Of the text, as the manifest says."""

    @property
    def num_tokens(self) -> int:
        """Of all sentences."""
        return int(self.token_counts_V.sum())

    @property
    def tokens_per_document(self) -> float:
        """On average."""
        return _ratio(self.num_tokens, self.documents.count)

    @property
    def tokens_per_sentence(self) -> float:
        """On average."""
        return _ratio(self.num_tokens, self.sentences.count)

    @property
    def bytes_per_token(self) -> float:
        """Of the text in UTF-8."""
        return _ratio(self.num_bytes, self.num_tokens)

    @property
    def unknown_share(self) -> float:
        """Share of the tokens that are [UNK]."""
        return _ratio(int(self.token_counts_V[self.vocabulary.special_ids["unk"]]), self.num_tokens)

    @property
    def used_share(self) -> float:
        """Share of the vocabulary's ordinary ids that occur."""
        ordinary_counts = self.token_counts_V[self.vocabulary.ordinary_ids]
        return _ratio(int(np.count_nonzero(ordinary_counts)), len(ordinary_counts))

    def most_frequent(self, count: int) -> list[int]:
        """Ids of the most frequent ordinary tokens that occur, the first the most frequent; of equals the lower id."""
        ids = self.vocabulary.ordinary_ids
        order = np.argsort(-self.token_counts_V[ids], kind="stable")[:count]
        return [int(number) for number in ids[order] if self.token_counts_V[number]]


def count_store(manifest: Manifest, store: Path, vocabulary: Vocabulary, advance: Advance) -> StoreNumbers:
    """Reads all shards of a store.

    Args:
        manifest: of the store.
        store: its folder.
        vocabulary: of its tokenizer.
        advance: called with how many tokens were counted.

    Raises:
        UserError: a shard is missing, truncated, or holds what is no id of the vocabulary.
    """
    token_counts_V = np.zeros(vocabulary.size, np.int64)
    documents, sentences = _Lengths(), _Lengths()
    for split in manifest.splits:
        for prefix in manifest.prefixes(store, split):
            shard = TokenStore(prefix)
            with shard.in_order():
                for lengths in _sentence_lengths(shard):
                    sentences.add(lengths)
                for lengths in _document_lengths(shard):
                    documents.add(lengths)
                _count_tokens(shard, token_counts_V, advance)
    return StoreNumbers(
        token_counts_V=token_counts_V,
        documents=documents.found(),
        sentences=sentences.found(),
        vocabulary=vocabulary,
        num_bytes=sum(counts.num_bytes for counts in manifest.splits.values()),
    )


class _Lengths:
    """Adds up lengths as they come."""

    def __init__(self) -> None:
        self._counts_L = np.zeros(LONGEST + 1, np.int64)
        self._longest = 0

    def add(self, lengths: NDArray[np.integer]) -> None:
        """Counts these lengths, at least one of them."""
        self._longest = max(self._longest, int(lengths.max()))
        found = np.bincount(np.minimum(lengths, LONGEST))
        self._counts_L[: len(found)] += found

    def found(self) -> Lengths:
        return Lengths(counts_L=self._counts_L, longest=self._longest)


def _sentence_lengths(shard: TokenStore) -> Iterator[NDArray[np.integer]]:
    for first in range(0, shard.num_sentences, _CHUNK):
        yield _checked(shard.lengths_N[first : first + _CHUNK], shard)
        shard.release()


def _document_lengths(shard: TokenStore) -> Iterator[NDArray[np.integer]]:
    for first in range(0, shard.num_documents, _CHUNK):
        begins = shard.documents[first : first + _CHUNK + 1]
        yield _checked(np.diff(shard.token_offsets(begins)), shard)
        shard.release()


def _checked(lengths: NDArray[np.integer], shard: TokenStore) -> NDArray[np.integer]:
    if lengths.min() < 0:
        raise _damaged(shard.idx_path, f"a length of {lengths.min()}")
    return lengths


def _count_tokens(shard: TokenStore, token_counts_V: Counts, advance: Advance) -> None:
    for first in range(0, shard.num_tokens, _CHUNK):
        chunk = shard.tokens[first : first + _CHUNK]
        # Of an unsigned dtype there is nothing below 0 to look for.
        lowest = int(chunk.min()) if chunk.dtype.kind == "i" else 0
        found = np.bincount(chunk) if lowest >= 0 else np.empty(0, np.int64)
        if lowest < 0 or len(found) > len(token_counts_V):
            raise _damaged(shard.bin_path, f"the token {lowest if lowest < 0 else len(found) - 1}")
        token_counts_V[: len(found)] += found
        advance(len(chunk))
        shard.release()


def _damaged(path: Path, what: str) -> UserError:
    return UserError(
        f"Expected a sound token store. Got {what} in {path}; data_prep/verify.py says what is wrong with the store."
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
