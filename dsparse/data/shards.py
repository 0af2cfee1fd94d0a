"""A split of several `.bin`/`.idx` pairs, its shards, read as if it were one.

Documents, sentences and tokens are counted through all shards, in int64: a split may have more than 2**32 of each. A
document lies in one shard.

Shapes: N sentences and D documents of the split, S shards.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsparse.data.store import TokenStore

_Lookup = Callable[[TokenStore, NDArray[np.int64]], NDArray[np.int64]]


class ShardedStore:
    """The shards of a split, in order, with the lookups of `TokenStore`."""

    shards: list[TokenStore]
    """Those that hold a sentence, or one if none does."""

    def __init__(self, prefixes: Iterable[str | Path]) -> None:
        """Opens all shards.

        Args:
            prefixes: their paths without suffix, at least one.

        Raises:
            UserError: a file is missing, truncated or not of this format.
        """
        self._prefixes = [Path(prefix) for prefix in prefixes]
        opened = [TokenStore(prefix) for prefix in self._prefixes]
        self.shards = [shard for shard in opened if shard.num_sentences] or opened[:1]
        self._documents = _firsts(shard.num_documents for shard in self.shards)
        self._sentences = _firsts(shard.num_sentences for shard in self.shards)
        self._tokens = _firsts(shard.num_tokens for shard in self.shards)

    def __reduce__(self) -> tuple[type[ShardedStore], tuple[list[Path]]]:
        # A worker process maps the files itself instead of being sent their contents.
        return ShardedStore, (self._prefixes,)

    @property
    def num_sentences(self) -> int:
        """N."""
        return int(self._sentences[-1])

    @property
    def num_documents(self) -> int:
        """D."""
        return int(self._documents[-1])

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole split."""
        return int(self._tokens[-1])

    def token_offsets(self, sentences: NDArray[np.int64]) -> NDArray[np.int64]:
        """As `TokenStore.token_offsets`."""
        return self._look_up(TokenStore.token_offsets, sentences, of=self._sentences, to=self._tokens)

    def document_bounds(self, documents: NDArray[np.int64]) -> NDArray[np.int64]:
        """As `TokenStore.document_bounds`."""
        return self._look_up(TokenStore.document_bounds, documents, of=self._documents, to=self._sentences)

    def documents_of(self, sentences: NDArray[np.int64]) -> NDArray[np.int64]:
        """As `TokenStore.documents_of`."""
        return self._look_up(TokenStore.documents_of, sentences, of=self._sentences, to=self._documents)

    def tokens_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """As `TokenStore.tokens_at`."""
        return self._look_up(TokenStore.tokens_at, positions, of=self._tokens, to=None)

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """As `TokenStore.in_order`."""
        with ExitStack() as stack:
            for shard in self.shards:
                stack.enter_context(shard.in_order())
            yield

    def _look_up(
        self,
        lookup: _Lookup,
        numbers: NDArray[np.int64],
        *,
        of: NDArray[np.int64],
        to: NDArray[np.int64] | None,
    ) -> NDArray[np.int64]:
        """Asks each shard for the numbers that lie in it.

        Args:
            lookup: what to ask.
            numbers: counted through all shards, of any shape.
            of: [S + 1], the number with which each shard begins.
            to: [S + 1], the same for what is found; None if that is not counted.

        Returns:
            What is found, of the shape of `numbers`.
        """
        if len(self.shards) == 1:
            return lookup(self.shards[0], numbers)
        wanted = numbers.ravel()
        # The number past the last one is that of the last shard's end.
        shard_of = np.minimum(np.searchsorted(of, wanted, side="right") - 1, len(self.shards) - 1)
        order = np.argsort(shard_of, kind="stable")
        shard_of = shard_of[order]
        within = wanted[order] - of[shard_of]
        edges = [0, *(np.flatnonzero(np.diff(shard_of)) + 1).tolist(), len(wanted)]
        for start, end in itertools.pairwise(edges):
            if end > start:
                within[start:end] = lookup(self.shards[shard_of[start]], within[start:end])
        found = np.empty_like(wanted)
        found[order] = within if to is None else within + to[shard_of]
        return found.reshape(numbers.shape)


def _firsts(sizes: Iterable[int]) -> NDArray[np.int64]:
    """Where each of several stretches of these sizes begins, and the end of the last; int64 [S + 1]."""
    return np.concatenate([[0], np.cumsum(list(sizes), dtype=np.int64)])
