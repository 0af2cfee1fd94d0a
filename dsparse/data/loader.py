"""Samples and batches of a store.

The global batch of optimizer step t is samples `t·G … t·G + G − 1` of one endless order, G being ranks × accumulation
steps × micro-batch; which rank and which worker builds a sample does not enter. So any number of ranks and workers, and
any resumed run, trains on the same batches.

Shape legend: B sequences of a micro-batch, T sequence length, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dsparse.data.manifest import TOKENIZER_NAME, Manifest
from dsparse.data.masking import Vocabulary, mask_tokens
from dsparse.data.pairs import make_chunks, make_pair
from dsparse.data.sampler import PURPOSE_MASK, PURPOSE_PAIR, generator, sample_at
from dsparse.data.store import TokenStore
from dsparse.errors import UserError

Sample = dict[str, NDArray[np.int64]]
Split = Literal["train", "heldout"]


@dataclass(frozen=True)
class LoaderState:
    """Where in the endless global order the next optimizer step begins."""

    position: int = 0
    """Samples consumed over all ranks."""

    def to_dict(self) -> dict[str, int]:
        """Plain values for a checkpoint."""
        return {"position": self.position}

    @classmethod
    def from_dict(cls, values: dict[str, int]) -> LoaderState:
        """The state saved by `to_dict`."""
        return cls(position=int(values["position"]))


class PretrainingData:
    """One split of a store as masked next-sentence pairs.

    Raises:
        UserError: there is no store, it is damaged, its tokenizer is another, or it has too few documents.
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
    ) -> None:
        self._arguments = {
            "split": split,
            "seq_length": seq_length,
            "seed": seed,
            "whole_word": whole_word,
            "mask_probability": mask_probability,
        }
        self.store_dir = Path(store_dir)
        self.seq_length = seq_length
        self.seed = seed
        self._whole_word = whole_word
        self._mask_probability = mask_probability
        self.manifest = Manifest.read(self.store_dir)
        self.manifest.check_sizes(self.store_dir)
        self._vocabulary = read_vocabulary(self.store_dir / TOKENIZER_NAME, self.manifest)
        self._cls, self._sep, self._pad = (self.manifest.special_ids[name] for name in ("[CLS]", "[SEP]", "[PAD]"))
        self._store = TokenStore(self.store_dir / split)
        self._chunks = make_chunks(self._store, seq_length - 3)
        if len(np.unique(self._chunks.document_C)) < 2:
            raise UserError(
                f"Expected at least two documents of two sentences in {self.store_dir / split}. Got fewer; "
                "next-sentence pairs need another document: prepare a larger corpus."
            )

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.manifest.vocab_size

    @property
    def pad_token_id(self) -> int:
        """Id of [PAD]."""
        return self._pad

    @property
    def num_samples_per_epoch(self) -> int:
        """Samples of an epoch, the same for each."""
        return self._chunks.num_chunks

    def require_batch(self, global_batch_size: int) -> None:
        """Raises a UserError if one global batch is more than an epoch."""
        if self.num_samples_per_epoch < global_batch_size:
            raise UserError(
                f"Expected a corpus of at least one batch of {global_batch_size} sequences in {self.store_dir}. Got "
                f"{self.num_samples_per_epoch}; prepare a larger corpus or lower the batch size."
            )

    def sample(self, epoch: int, index: int) -> Sample:
        """Sample `index` of an epoch, a pure function of (seed, epoch, index).

        Returns:
            int64 arrays: input_ids, attention_mask (1 at tokens), token_type_ids (0 for A, 1 for B) and labels (-100
            where nothing is predicted), [T] each; next_sentence_label, [], 0 where B follows A, 1 where it is random.
        """
        pair = make_pair(
            self._store,
            self._chunks,
            index,
            seq_length=self.seq_length,
            random=generator(self.seed, PURPOSE_PAIR, epoch, index),
        )
        num_a, num_b = len(pair.a), len(pair.b)
        ids_T = np.full(self.seq_length, self._pad, dtype=np.int64)
        ids_T[0] = self._cls
        ids_T[1 : 1 + num_a] = pair.a
        ids_T[1 + num_a] = self._sep
        ids_T[2 + num_a : 2 + num_a + num_b] = pair.b
        end = 3 + num_a + num_b
        ids_T[end - 1] = self._sep
        maskable_T = np.zeros(self.seq_length, dtype=bool)
        maskable_T[1 : end - 1] = True
        maskable_T[1 + num_a] = False
        masked_T, labels_T = mask_tokens(
            ids_T,
            maskable_T,
            self._vocabulary,
            probability=self._mask_probability,
            whole_word=self._whole_word,
            random=generator(self.seed, PURPOSE_MASK, epoch, index),
        )
        attention_T, types_T = np.zeros((2, self.seq_length), dtype=np.int64)
        attention_T[:end] = 1
        types_T[2 + num_a : end] = 1
        return {
            "input_ids": masked_T,
            "attention_mask": attention_T,
            "token_type_ids": types_T,
            "labels": labels_T,
            "next_sentence_label": np.asarray(int(pair.is_random), dtype=np.int64),
        }

    def at(self, position: int) -> Sample:
        """The sample at a position of the endless global order."""
        return self.sample(*sample_at(position, self.num_samples_per_epoch, self.seed))

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers open the memory map for themselves; pickling it would copy the store.
        return _reopen, (self.store_dir, self._arguments)


class MicroBatches:
    """This rank's micro-batches from a state on, without end; iterate it for (batch, state).

    The state that comes with a micro-batch is where to resume after it: the beginning of its own optimizer step until
    the last micro-batch of that step, then the beginning of the next.
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
        self._data = data
        self._micro_batch_size = micro_batch_size
        self._rank = rank
        self._world_size = world_size
        self._accumulation = gradient_accumulation_steps
        self._num_workers = num_workers
        self._state = state or LoaderState()
        data.require_batch(self.global_batch_size)

    @property
    def global_batch_size(self) -> int:
        """Sequences of an optimizer step over all ranks."""
        return self._micro_batch_size * self._world_size * self._accumulation

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], LoaderState]]:
        batches = DataLoader(
            _Positions(self._data),
            batch_sampler=_MicroBatchPositions(self),
            num_workers=self._num_workers,
            collate_fn=collate,
            generator=torch.Generator(),  # else it would draw from the global one
        )
        position = self._state.position
        for number, batch in enumerate(batches, start=1):
            if number % self._accumulation == 0:
                position += self.global_batch_size
            yield batch, LoaderState(position)

    def positions(self) -> Iterator[list[int]]:
        """Global positions of each micro-batch of this rank."""
        first = self._state.position + self._rank * self._micro_batch_size
        stride = self._world_size * self._micro_batch_size
        while True:
            yield list(range(first, first + self._micro_batch_size))
            first += stride


def collate(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Stacks samples to int64 tensors: [B, T], and [B] for next_sentence_label."""
    return {key: torch.from_numpy(np.stack([sample[key] for sample in samples])) for key in samples[0]}


def read_vocabulary(path: Path, manifest: Manifest) -> Vocabulary:
    """What masking needs of a WordPiece tokenizer.json."""
    model = json.loads(path.read_text(encoding="utf8"))["model"]
    prefix = model.get("continuing_subword_prefix") or "##"
    is_continuation_V = np.zeros(manifest.vocab_size, dtype=bool)
    for token, number in model["vocab"].items():
        is_continuation_V[number] = token.startswith(prefix)
    special = np.asarray(sorted(manifest.special_ids.values()))
    return Vocabulary(
        size=manifest.vocab_size,
        mask_id=manifest.special_ids["[MASK]"],
        is_continuation_V=is_continuation_V,
        ordinary_ids=np.setdiff1d(np.arange(manifest.vocab_size), special),
    )


class _Positions(Dataset[Sample]):
    def __init__(self, data: PretrainingData) -> None:
        self._data = data

    def __getitem__(self, position: int) -> Sample:
        return self._data.at(position)


class _MicroBatchPositions:
    def __init__(self, owner: MicroBatches) -> None:
        self._owner = owner

    def __iter__(self) -> Iterator[list[int]]:
        return self._owner.positions()


def _reopen(store_dir: Path, arguments: dict[str, Any]) -> PretrainingData:
    return PretrainingData(store_dir, **arguments)
