"""Megatron-LM's own reader reads our store, and ours reads what its builder wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from dsparse.data.store import TokenStore
from tests.data.store_fixture import make_small_store

# Its package imports all of Megatron, which has no place in this process.
_MEGATRON = """
import sys, typing, warnings
warnings.simplefilter("ignore")
if not hasattr(typing, "override"):
    typing.override = lambda function: function
import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder
prefix, copy, arrays = sys.argv[1:]
dataset = IndexedDataset(prefix)
tokens = np.concatenate([dataset[number] for number in range(len(dataset))])
np.savez(arrays, tokens=tokens, lengths=dataset.sequence_lengths, documents=dataset.document_indices)
builder = IndexedDatasetBuilder(copy + ".bin", dtype=DType.optimal_dtype(1024))
for begin, end in zip(dataset.document_indices[:-1], dataset.document_indices[1:]):
    sentences = [dataset[number] for number in range(begin, end)]
    builder.add_document(torch.from_numpy(np.concatenate(sentences).astype(np.int64)), [len(one) for one in sentences])
builder.finalize(copy + ".idx")
"""


def test_both_ways(tmp_path: Path) -> None:
    prefix = make_small_store(tmp_path / "store") / "train-00000"
    copy, arrays = tmp_path / "copy", tmp_path / "arrays.npz"
    script = [sys.executable, "-c", _MEGATRON, str(prefix), str(copy), str(arrays)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ours, theirs = TokenStore(prefix), np.load(arrays)
    assert ours.num_documents > 50
    assert np.array_equal(ours.tokens, theirs["tokens"])
    assert np.array_equal(ours.lengths_N, theirs["lengths"])
    assert np.array_equal(ours.documents, theirs["documents"])
    for suffix in (".bin", ".idx"):
        assert copy.with_suffix(suffix).read_bytes() == prefix.with_suffix(suffix).read_bytes()
    copied = TokenStore(copy)
    assert np.array_equal(copied.tokens, ours.tokens) and np.array_equal(copied.documents, ours.documents)
