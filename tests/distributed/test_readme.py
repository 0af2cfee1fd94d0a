"""The README's example, run as it stands."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.distributed.rank_pool import RankPool
from tests.test_docs import block_of

pytestmark = pytest.mark.distributed


def run_example(code: str, sparsity: str) -> tuple[str, float]:
    """Runs the block with a model and a configuration around it."""
    import torch

    import dsparse

    model = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 32))
    config = {
        "train_micro_batch_size_per_gpu": 4,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
        **json.loads("{" + sparsity + "}"),
    }
    names = {"model": model, "config": config}
    exec(code, names)
    engine = names["engine"]
    result = type(engine).__name__, engine.patterns["0.weight"].density
    assert isinstance(engine, dsparse.SparseEngine)
    engine.destroy()
    return result


def test_the_example_makes_a_sparse_engine(pools: Callable[[int], RankPool]) -> None:
    code, sparsity = block_of("README.md", "python"), block_of("README.md", "json")
    assert pools(1).run(run_example, code, sparsity) == [("SparseEngine", 2 / 24)]
