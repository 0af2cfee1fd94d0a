"""The packed layout on ranks: the training of the masked one, at a cost that follows the density."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.distributed.cells import Cell, pattern_numbers
from tests.distributed.rank_pool import RankPool

pytestmark = pytest.mark.distributed

Pools = Callable[[int], RankPool]
STEPS, UPDATES = 200, 11  # so ten pattern updates


def train_bert(stage: int, layout: str, block: int) -> dict[str, Any]:
    """200 steps of a small BERT on two ranks: the patterns after every update, every loss, and the model at the end."""
    from deepspeed import comm as dist

    import dsparse
    from dsparse.models.bert import ENCODER_MODULES, BertPreset, build_bert

    model = build_bert(BertPreset(2, 64, 2), vocab_size=97, max_seq_length=16, dropout=0.0, seed=3)
    cell = Cell(stage, "fp32", clipping=True, block=block, layout=layout)
    config = cell.config(total_steps=STEPS, updates=UPDATES, drop_schedule="cosine", modules=ENCODER_MODULES)
    engine = dsparse.initialize(model=model, config=config, model_parameters=model.parameters())[0]
    generator = torch.Generator().manual_seed(dist.get_rank())
    losses, history = [], [pattern_numbers(engine)]
    for _ in range(STEPS):
        # Which word it is depends on the place, up to a choice of two: something to learn.
        words = 1 + 6 * torch.arange(16) + torch.randint(2, (4, 1), generator=generator)
        is_masked = torch.rand(4, 16, generator=generator) < 0.3
        labels = torch.where(is_masked, words, -100)
        is_next = torch.randint(2, (4,), generator=generator)
        out = engine(words.masked_fill(is_masked, 0), None, torch.zeros_like(words), labels, is_next)
        engine.backward(out.loss)
        engine.step()
        losses.append(float(out.loss.detach()))
        if pattern_numbers(engine) != history[-1]:
            history.append(pattern_numbers(engine))
    state = dsparse.to_dense_state_dict(engine)
    result = {
        "history": history,
        "losses": losses,
        "state": {name: tensor.clone() for name, tensor in state.items()},
        "layers": sorted({type(module).__name__ for module in engine.module.bert.encoder.modules()}),
    }
    engine.destroy()
    return result


@pytest.mark.slow
@pytest.mark.parametrize("block", [1, 8])
@pytest.mark.parametrize("stage", [1, 3])
def test_masked_and_packed_are_one_training(two_ranks: RankPool, stage: int, block: int) -> None:
    """Patterns are the same at every update; losses differ by the order in which blocks are added up, no more."""
    masked = two_ranks.run(train_bert, stage, "masked", block)
    packed = two_ranks.run(train_bert, stage, "packed", block)
    assert "PackedLinear" in packed[0]["layers"] and "PackedLinear" not in masked[0]["layers"]
    assert len(masked[0]["history"]) == UPDATES
    for ours, theirs in zip(packed, masked, strict=True):
        assert ours["history"] == theirs["history"]
        assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-4)
        assert ours["losses"][-1] < 0.8 * ours["losses"][0]
        for name, tensor in ours["state"].items():
            # Adam divides by the root of the second moment: near 0 a rounding error moves a weight by a learning rate.
            torch.testing.assert_close(tensor, theirs["state"][name], rtol=0, atol=2e-3, msg=name)
            assert torch.equal(tensor == 0, theirs["state"][name] == 0) or "bias" in name or "weight" not in name


def test_a_packed_model_leaves_as_a_dense_one(two_ranks: RankPool) -> None:
    """The state dict of a packed engine is the plain model's: same names and shapes, zeros outside the pattern."""
    from dsparse.models.bert import BertPreset, build_bert

    result = two_ranks.run(train_bert, 3, "packed", 8)[0]
    plain = build_bert(BertPreset(2, 64, 2), vocab_size=97, max_seq_length=16, dropout=0.0, seed=0)
    plain.load_state_dict(result["state"], strict=True)
    layer = plain.bert.encoder.layer[0].attention.self.query
    assert 0.74 < float((layer.weight == 0).float().mean()) < 0.76


WIDTH = 512
SAVED = (".pt", ".safetensors")  # weights, moments and patterns


class Stack(nn.Module):
    """Sparse weights alone, so that every byte counted is of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def bytes_of(layout: str | None, stage: int, block: int, folder: str) -> dict[str, int]:
    """What an ordinary step and a checkpoint of a rank hold and send; without a layout, of dense DeepSpeed."""
    import deepspeed
    from deepspeed.comm import comm

    import dsparse

    torch.manual_seed(0)
    config = Cell(stage, "fp32", block=block).config(sparsity=0.9, layout=layout or "masked")
    config["comms_logger"] = {"enabled": True, "prof_all": True, "verbose": False}
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    if layout is None:
        del config["dynamic_sparsity"]
    model = Stack()
    start = dsparse.initialize if layout else deepspeed.initialize
    engine = start(model=model, config=config, model_parameters=model.parameters())[0]
    for _ in range(3):  # the last one is neither the first, after which ranks compare notes, nor a pattern update
        comm.comms_logger.comms_dict.clear()
        engine.backward(engine(torch.randn(4, WIDTH)).square().mean())
        gradients = sum(_num_bytes(_gradient(parameter)) for parameter in engine.module.parameters())
        engine.step()
        reduced = {
            op: sum(int(size) * len(times[1]) for size, times in by_size.items())
            for op, by_size in comm.comms_logger.comms_dict.items()
            if "reduce" in op
        }
    comm.comms_logger.enabled = False
    states = engine.basic_optimizer.state.values()
    moments = sum(_num_bytes(v) for state in states for v in state.values() if torch.is_tensor(v) and v.numel() > 1)
    engine.save_checkpoint(folder, tag="saved")
    files = sum(path.stat().st_size for path in (Path(folder) / "saved").iterdir() if path.suffix in SAVED)
    parameters = sum(int(getattr(p, "ds_numel", p.numel())) * 4 for p in engine.module.parameters())
    engine.destroy()
    return {
        "parameters": parameters,
        "gradients": gradients,
        "moments": moments,
        "reduced": sum(reduced.values()),
        "checkpoint": files,
    }


def _gradient(parameter: Any) -> torch.Tensor:
    from deepspeed.utils import safe_get_full_grad

    return parameter.grad if parameter.grad is not None else safe_get_full_grad(parameter)


def _num_bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@pytest.mark.parametrize("block", [1, 16])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_cost_follows_density(two_ranks: RankPool, tmp_path: Path, stage: int, block: int) -> None:
    """What is stored, reduced and saved for sparse weights is at most density + 3 % of dense.

    One place exceeds it: at stage 3, which saves 12 bytes for a weight and not 16, a 1×1 pattern beside its weights.
    With its history it is 28 bits a slot of 2¹⁸ blocks, and no coding of an order, a set and a history is much shorter.
    """
    dense = two_ranks.run(bytes_of, None, stage, block, str(tmp_path / "dense"))[0]
    packed = two_ranks.run(bytes_of, "packed", stage, block, str(tmp_path / "packed"))[0]
    assert dense["parameters"] == dense["gradients"] == 4 * 4 * WIDTH**2
    for what, num_bytes in packed.items():
        limit = 0.131 if what == "checkpoint" and (stage, block) == (3, 1) else 0.13
        assert 0.09 <= num_bytes / dense[what] <= limit, what
