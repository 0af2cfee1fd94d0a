"""Batches are the same for every number of ranks, workers and restarts, bit for bit."""

from __future__ import annotations

import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dsparse.data.loader import LoaderState, MicroBatches, PretrainingData
from dsparse.errors import UserError
from tests.data.small import random_documents, rewrite_manifest, write_store, write_tokenizer
from tests.data.store_fixture import make_small_store

Batch = dict[str, Tensor]
NAMES = {"input_ids", "attention_mask", "token_type_ids", "labels", "next_sentence_label"}
SEED = 7


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_store(tmp_path_factory.mktemp("loader") / "store")


@pytest.fixture(scope="module")
def data(store: Path) -> PretrainingData:
    return PretrainingData(store, seed=SEED, seq_length=64)


def take(data: PretrainingData, num: int, **settings: object) -> list[tuple[Batch, LoaderState]]:
    arguments: dict[str, object] = {"micro_batch_size": 4, "rank": 0, "world_size": 1, **settings}
    return list(itertools.islice(MicroBatches(data, **arguments), num))  # type: ignore[arg-type]


def rows(batch: Batch) -> list[bytes]:
    """Each sequence of a batch as bytes, so that batches compare bit for bit."""
    return [b"".join(batch[name][i].numpy().tobytes() for name in sorted(NAMES)) for i in range(len(batch["labels"]))]


def global_rows(data: PretrainingData, *, world: int, accumulation: int, micro: int, steps: int, workers: int = 0,
                state: LoaderState | None = None) -> list[list[bytes]]:  # fmt: skip
    """The sequences of each optimizer step over all ranks, in the order of their positions."""
    ranks = [
        take(data, steps * accumulation, micro_batch_size=micro, rank=rank, world_size=world,
             gradient_accumulation_steps=accumulation, num_workers=workers, state=state)
        for rank in range(world)
    ]  # fmt: skip
    return [
        [row for a in range(accumulation) for rank in ranks for row in rows(rank[step * accumulation + a][0])]
        for step in range(steps)
    ]


def test_shapes_and_types(data: PretrainingData) -> None:
    batch, state = take(data, 1)[0]
    assert set(batch) == NAMES
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    assert all(batch[name].shape == (4, 64) for name in NAMES - {"next_sentence_label"})
    assert batch["next_sentence_label"].shape == (4,)
    assert state == LoaderState(4)


@pytest.mark.parametrize(
    ("world", "accumulation", "micro", "workers"),
    [(1, 2, 8, 0), (2, 1, 8, 0), (2, 2, 4, 0), (4, 1, 4, 0), (4, 4, 1, 0), (2, 2, 4, 2), (1, 1, 16, 3)],
)
def test_the_global_batch_does_not_depend_on_ranks_and_workers(
    data: PretrainingData, world: int, accumulation: int, micro: int, workers: int
) -> None:
    one = global_rows(data, world=1, accumulation=1, micro=16, steps=3)
    assert len({row for step in one for row in step}) == 48
    other = global_rows(data, world=world, accumulation=accumulation, micro=micro, steps=3, workers=workers)
    assert other == one


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_at_a_step_it_goes_on_exactly(data: PretrainingData, workers: int) -> None:
    straight = take(data, 10, gradient_accumulation_steps=2)
    saved = json.loads(json.dumps(straight[3][1].to_dict()))
    resumed = take(data, 6, gradient_accumulation_steps=2, num_workers=workers, state=LoaderState.from_dict(saved))
    assert [(rows(b), s) for b, s in resumed] == [(rows(b), s) for b, s in straight[4:]]


def test_resumed_on_other_ranks_it_goes_on_exactly(data: PretrainingData) -> None:
    straight = global_rows(data, world=2, accumulation=1, micro=8, steps=4)
    resumed = global_rows(data, world=4, accumulation=2, micro=2, steps=2, state=LoaderState(32))
    assert resumed == straight[2:]


def test_the_state_moves_with_optimizer_steps(data: PretrainingData) -> None:
    states = [state.position for _, state in take(data, 6, world_size=2, gradient_accumulation_steps=3)]
    assert states == [0, 0, 24, 24, 24, 48]


def test_across_the_end_of_an_epoch(data: PretrainingData) -> None:
    n = data.num_samples_per_epoch
    batch = data.batch(np.arange(n - 2, n + 2))
    singles = [data.sample(0, n - 2), data.sample(0, n - 1), data.sample(1, 0), data.sample(1, 1)]
    for name in NAMES:
        assert np.array_equal(batch[name], np.stack([sample[name] for sample in singles]))


def test_a_sample_is_a_function_of_its_place(data: PretrainingData, store: Path) -> None:
    again = PretrainingData(store, seed=SEED, seq_length=64)
    for index in (5, 0, 17):
        first, second = data.sample(2, index), again.sample(2, index)
        assert all(np.array_equal(first[name], second[name]) for name in NAMES)


def test_a_batch_is_its_samples(data: PretrainingData) -> None:
    batch = take(data, 1)[0][0]
    for index in range(4):
        assert all(np.array_equal(batch[name][index].numpy(), data.sample(0, index)[name]) for name in NAMES)


def test_epochs_and_seeds_differ(data: PretrainingData, store: Path) -> None:
    n = data.num_samples_per_epoch
    other = PretrainingData(store, seed=SEED + 1, seq_length=64)
    first, second, of_other_seed = texts(data, 0), texts(data, 1), texts(other, 0)
    assert len(first & second) < 0.05 * n
    assert len(first & of_other_seed) < 0.05 * n


def texts(data: PretrainingData, epoch: int) -> set[bytes]:
    n = data.num_samples_per_epoch
    return {ids.tobytes() for ids in data.batch(np.arange(n) + epoch * n)["input_ids"]}


def test_an_epoch_is_about_the_size_of_the_text(data: PretrainingData) -> None:
    n = data.num_samples_per_epoch
    parts = [data.batch(np.arange(n) + epoch * n) for epoch in range(2)]
    num_seen = sum(int(part["attention_mask"].sum()) for part in parts)
    assert num_seen > 1.5 * data.manifest.splits["train"].num_tokens


def test_labels_are_the_share_that_was_asked_for(store: Path) -> None:
    data = PretrainingData(store, seed=1, mask_probability=0.3, whole_word=False)
    batch = data.batch(np.arange(data.num_samples_per_epoch))
    num_text = batch["attention_mask"].sum() - 3 * len(batch["labels"])
    assert abs((batch["labels"] >= 0).sum() / num_text - 0.3) < 0.005


def test_half_of_the_pairs_are_random(data: PretrainingData) -> None:
    labels = data.batch(np.arange(4 * data.num_samples_per_epoch))["next_sentence_label"]
    assert abs(labels.mean() - 0.5) < 0.03


def test_held_out_samples_are_fixed_and_from_all_over(store: Path) -> None:
    data = PretrainingData(store, split="heldout", seq_length=64)
    first, again = (data.batch(np.arange(40)) for _ in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in NAMES)
    train = PretrainingData(store, split="train", seq_length=64)
    assert data.num_samples_per_epoch < train.num_samples_per_epoch


def test_torch_draws_what_it_would_have_drawn(data: PretrainingData) -> None:
    """Loading leaves the global generators alone: dropout is the same with any number of workers."""
    torch.manual_seed(1)
    np_state = np.random.get_state()[1].copy()
    expected = torch.rand(3)
    for workers in (0, 2):
        torch.manual_seed(1)
        take(data, 2, num_workers=workers)
        assert torch.equal(torch.rand(3), expected)
    assert np.array_equal(np.random.get_state()[1], np_state)


def test_data_can_be_sent_to_a_worker(data: PretrainingData) -> None:
    sent = pickle.dumps(data)
    assert len(sent) < 200_000  # not the tokens
    assert rows(take(pickle.loads(sent), 1)[0][0]) == rows(take(data, 1)[0][0])


def test_megatron_tokens_of_four_bytes_make_the_same_batches(tmp_path: Path) -> None:
    documents = {"train": random_documents(1, 20), "heldout": random_documents(2, 4)}
    narrow = PretrainingData(write_store(tmp_path / "a", documents), seq_length=32)
    wide_dir = write_store(tmp_path / "b", documents)
    tokens = np.fromfile(wide_dir / "train-00000.bin", "<u2").astype("<i4")
    index = bytearray((wide_dir / "train-00000.idx").read_bytes())
    num = int.from_bytes(index[18:26], "little")
    index[17] = 4
    index[34 + 4 * num : 34 + 12 * num] = (np.frombuffer(index, "<i8", num, 34 + 4 * num) * 2).tobytes()
    (wide_dir / "train-00000.bin").write_bytes(tokens.tobytes())
    (wide_dir / "train-00000.idx").write_bytes(index)
    num_bytes = tokens.nbytes
    rewrite_manifest(wide_dir, lambda content: content["files"]["train-00000.bin"].update(num_bytes=num_bytes))
    wide = PretrainingData(wide_dir, seq_length=32)
    assert rows(take(wide, 1)[0][0]) == rows(take(narrow, 1)[0][0])


def test_shards_make_no_difference(tmp_path: Path) -> None:
    documents = {"train": random_documents(1, 90), "heldout": random_documents(2, 9)}
    sizes = {"train": [1, 40, 0, 2, 30, 16, 1], "heldout": [4, 5]}
    one, seven = (
        write_store(tmp_path / name, documents, shard_sizes=shards) for name, shards in (("a", None), ("b", sizes))
    )
    assert len(list(seven.glob("train-*.bin"))) == 7
    for split in ("train", "heldout"):
        whole, parts = (PretrainingData(store, split=split, seq_length=32) for store in (one, seven))
        n = whole.num_samples_per_epoch
        assert parts.num_samples_per_epoch == n
        expected, found = (data.batch(np.arange(2 * n)) for data in (whole, parts))
        assert all(np.array_equal(found[name], expected[name]) for name in NAMES)
    assert rows(take(pickle.loads(pickle.dumps(parts)), 1)[0][0]) == rows(take(whole, 1)[0][0])
    assert rows(take(parts, 1, num_workers=1)[0][0]) == rows(take(whole, 1)[0][0])


def test_another_tokenizer_is_refused(store: Path, tmp_path: Path) -> None:
    PretrainingData(store, tokenizer=store / "tokenizer.json")
    write_tokenizer(tmp_path / "other.json")
    with pytest.raises(UserError, match=r"Expected the tokenizer that made the store.*other\.json"):
        PretrainingData(store, tokenizer=tmp_path / "other.json")


@pytest.mark.parametrize(
    "documents",
    [[], [[[5, 6], [7, 8]]], [[[5, 6, 7]], [[8, 9]], [[10]]]],
    ids=["empty", "one document", "no document of two sentences"],
)
def test_too_small_a_split_is_refused(tmp_path: Path, documents: list[list[list[int]]]) -> None:
    store = write_store(tmp_path / "store", {"train": documents, "heldout": random_documents(1, 3)})
    with pytest.raises(UserError, match=r"Expected at least two documents.*store/train.*prepare\.py"):
        PretrainingData(store)
    assert PretrainingData(store, split="heldout").num_samples_per_epoch > 0


def test_fewer_samples_than_a_batch_are_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", {"train": random_documents(1, 5), "heldout": random_documents(2, 3)})
    data = PretrainingData(store, seq_length=32)
    n = data.num_samples_per_epoch
    take(data, 1, micro_batch_size=n)
    with pytest.raises(UserError, match=rf"one batch of {2 * n} sequences.*Got {n} of 32 tokens"):
        take(data, 1, micro_batch_size=n, world_size=2)


@pytest.mark.parametrize(("seq_length", "probability"), [(7, 0.15), (32, 0.0), (32, 1.5)])
def test_settings_out_of_range_are_refused(store: Path, seq_length: int, probability: float) -> None:
    with pytest.raises(UserError, match="Expected sequences of at least 8 tokens and a mask probability"):
        PretrainingData(store, seq_length=seq_length, mask_probability=probability)
