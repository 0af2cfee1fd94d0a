"""Samples and micro-batches of a store, the same whatever the number of ranks, workers and restarts.

The samples of a run stand in one endless order: position p is place p mod n of epoch p div n, n being the samples of an
epoch, each epoch in an order of its own. The global batch of an optimizer step is the next G positions, G being ranks ×
accumulation steps × micro-batch. A sample is a pure function of the settings and its position; who makes it, and when,
does not enter. So where a run stands is one integer.

Shapes: B sequences of a micro-batch, T tokens in a sequence.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dsparse.data.draw import Draws, draws, stream_key
from dsparse.data.manifest import Manifest, how_to_make
from dsparse.data.masking import mask_tokens
from dsparse.data.pairs import NUM_SPECIAL, make_pairs
from dsparse.data.sampler import locate
from dsparse.data.shards import ShardedStore
from dsparse.data.vocabulary import Vocabulary
from dsparse.data.windows import Windows
from dsparse.data.workers import live_and_die_with_the_rank
from dsparse.errors import UserError

Sample = dict[str, NDArray[np.int64]]
Split = Literal["train", "heldout"]

_MIN_SEQ_LENGTH = 8


@dataclass(frozen=True)
class LoaderState:
    """Where in the endless order the next optimizer step begins."""

    position: int = 0
    """Samples consumed so far over all ranks."""

    def to_dict(self) -> dict[str, int]:
        """Plain JSON types, for a checkpoint."""
        return {"position": self.position}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LoaderState:
        """The state that `to_dict` saved."""
        return cls(position=int(values["position"]))


class PretrainingData:
    """One split of a store as masked next-sentence pairs.

    The arrays of a sample are int64: `input_ids`, `attention_mask` (1 at tokens, 0 at padding), `token_type_ids` (0 for
    segment A, 1 for B) and `labels` (-100 where nothing is predicted), [T] each, and `next_sentence_label`, [], 0 where
    B follows A and 1 where it comes from another document.
    """

    def __init__(
        self,
        store_dir: str | Path,
        *,
        split: Split = "train",
        seq_length: int = 128,
        seed: int = 0,
        whole_word: bool = True,
        mask_probability: float = 0.15,
        tokenizer: str | Path | None = None,
    ) -> None:
        """Opens a split; the sizes of all files and the tokenizer's hash are compared with the manifest.

        Args:
            store_dir: folder made by data_prep/prepare.py.
            split: "train" or "heldout".
            seq_length: T, tokens.
            seed: of order, pairs and masks; 0 <= seed < 2**63.
            whole_word: mask whole words, not single pieces.
            mask_probability: share of the text's tokens that carry a label.
            tokenizer: the tokenizer.json that the store must have been made with; None trusts the store's own.

        Raises:
            UserError: there is no store, it is damaged, it was made by another tokenizer, or it is too small.
        """
        if not (seq_length >= _MIN_SEQ_LENGTH and 0 < mask_probability <= 1):
            raise UserError(
                f"Expected sequences of at least {_MIN_SEQ_LENGTH} tokens and a mask probability in (0, 1]. "
                f"Got {seq_length} and {mask_probability}."
            )
        self.store_dir = Path(store_dir)
        self.seq_length, self.seed = seq_length, seed
        self.manifest = Manifest.read(self.store_dir)
        self.vocabulary = self.manifest.check(self.store_dir)
        if tokenizer is not None:
            self.manifest.require_tokenizer(Vocabulary.read(Path(tokenizer)), Path(tokenizer))
        self._mask_tokens = partial(
            mask_tokens, vocabulary=self.vocabulary, probability=mask_probability, whole_word=whole_word
        )
        self._store = ShardedStore(self.manifest.prefixes(self.store_dir, split))
        self._windows = Windows(self._store, seq_length - NUM_SPECIAL)
        if self._store.num_documents < 2 or not len(self._windows):
            raise UserError(
                f"Expected at least two documents, one of them of two sentences, in {self.store_dir / split}. Got "
                f"{self._store.num_documents} documents of {self._store.num_sentences} sentences; "
                f"{how_to_make(self.store_dir)} from a larger corpus."
            )

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.manifest.vocab_size

    @property
    def pad_token_id(self) -> int:
        """Id of [PAD]."""
        return self.vocabulary.special_ids["pad"]

    @property
    def num_samples_per_epoch(self) -> int:
        """Samples in an epoch, the same for each: a function of the store and the sequence length."""
        return len(self._windows)

    def require_batch(self, global_batch_size: int) -> None:
        """Raises a UserError if one global batch is more than an epoch."""
        if self.num_samples_per_epoch < global_batch_size:
            raise UserError(
                f"Expected a corpus of at least one batch of {global_batch_size} sequences in {self.store_dir}. Got "
                f"{self.num_samples_per_epoch} of {self.seq_length} tokens; prepare a larger corpus or lower the batch "
                "size."
            )

    def sample(self, epoch: int, index: int) -> Sample:
        """The sample at a place of an epoch's order, a pure function of (seed, epoch, index).

        The first few samples of an epoch are thus a fair draw from the whole split.

        Args:
            epoch: from 0.
            index: 0 <= index < num_samples_per_epoch.
        """
        batch = self.batch(np.asarray([epoch * self.num_samples_per_epoch + index]))
        return {name: values[0] for name, values in batch.items()}

    def batch(self, positions_B: NDArray[np.int64]) -> Sample:
        """The samples at these positions of the endless order, as `sample` makes them, stacked.

        Making many at once is several times faster than one by one.

        Args:
            positions_B: int64, each >= 0.

        Returns:
            int64 arrays [B, T], and [B] for `next_sentence_label`.
        """
        epochs_B, numbers_B = locate(positions_B, num_samples=self.num_samples_per_epoch, seed=self.seed)
        pairs = make_pairs(
            self._store,
            self._windows,
            numbers_B,
            keys_B=self._keys(epochs_B, numbers_B, "pairs"),
            seq_length=self.seq_length,
            vocabulary=self.vocabulary,
        )
        keys_B = self._keys(epochs_B, numbers_B, "masks")
        input_ids_BT, labels_BT = self._mask_tokens(pairs.ids_BT, pairs.is_text_BT, keys_B)
        return {
            "input_ids": input_ids_BT,
            "attention_mask": pairs.is_used_BT.astype(np.int64),
            "token_type_ids": pairs.token_types_BT,
            "labels": labels_BT,
            "next_sentence_label": pairs.is_random_B.astype(np.int64),
        }

    def _keys(self, epochs_B: NDArray[np.int64], numbers_B: NDArray[np.int64], purpose: str) -> Draws:
        """A key for each sample."""
        keys_B = np.empty(len(epochs_B), np.uint64)
        for epoch in np.unique(epochs_B):
            here = epochs_B == epoch
            keys_B[here] = draws(stream_key(self.seed, int(epoch), purpose), numbers_B[here])
        return keys_B


class MicroBatches:
    """This rank's micro-batches from a state on, without end; iterate for (batch, state).

    Sequence j of micro-step a on rank r is at position `step_begin + (a * world_size + r) * micro_batch_size + j`. The
    state that comes with a micro-batch is where to go on after it: the beginning of its own optimizer step until the
    last micro-batch of that step, then the beginning of the next.
    """

    def __init__(
        self,
        data: PretrainingData,
        *,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        gradient_accumulation_steps: int = 1,
        num_workers: int = 0,
        state: LoaderState | None = None,
    ) -> None:
        """Nothing is made before it is iterated.

        Args:
            data: the split.
            micro_batch_size: B, sequences per forward pass of one rank.
            rank: this rank, 0 <= rank < world_size.
            world_size: number of ranks.
            gradient_accumulation_steps: micro-batches of one rank in an optimizer step.
            num_workers: processes that make batches ahead; 0 makes them in this process. The batches are the same.
            state: where to begin; None begins at the first sample.

        Raises:
            UserError: a global batch is more than an epoch.
        """
        assert 0 <= rank < world_size and micro_batch_size > 0 and gradient_accumulation_steps > 0
        self._data = data
        self._micro_batch_size, self._accumulation = micro_batch_size, gradient_accumulation_steps
        self._rank, self._world_size = rank, world_size
        self._num_workers = num_workers
        self._state = state or LoaderState()
        data.require_batch(self.global_batch_size)

    @property
    def global_batch_size(self) -> int:
        """Sequences of an optimizer step over all ranks."""
        return self._micro_batch_size * self._world_size * self._accumulation

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], LoaderState]]:
        position = self._state.position
        for number, batch in enumerate(self._batches(), start=1):
            if number % self._accumulation == 0:
                position += self.global_batch_size
            yield batch, LoaderState(position)

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        dataset = _BatchesByPosition(self._data, self._micro_batch_size)
        first = self._state.position + self._rank * self._micro_batch_size
        firsts = itertools.count(first, self._world_size * self._micro_batch_size)
        if self._num_workers == 0:
            return map(dataset.__getitem__, firsts)
        # A generator of its own: DataLoader would draw a seed for its workers from the global one.
        return iter(
            DataLoader(
                dataset,
                batch_size=None,
                sampler=firsts,
                num_workers=self._num_workers,
                generator=torch.Generator(),
                worker_init_fn=live_and_die_with_the_rank,
            )
        )


def to_tensors(batch: Sample) -> dict[str, Tensor]:
    """The arrays of `PretrainingData.batch` as tensors that share their memory."""
    return {name: torch.from_numpy(values) for name, values in batch.items()}


class _BatchesByPosition(Dataset[dict[str, Tensor]]):
    """Micro-batches by the position of their first sample; it is what worker processes hold."""

    def __init__(self, data: PretrainingData, micro_batch_size: int) -> None:
        self._data, self._offsets_B = data, np.arange(micro_batch_size)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        return to_tensors(self._data.batch(position + self._offsets_B))
