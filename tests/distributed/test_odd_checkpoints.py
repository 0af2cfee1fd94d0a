"""Checkpoints of engines that are not of the usual kind: weights that nobody trains, odd client state, odd folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dsparse.checkpoint.manifest import Manifest
from dsparse.engine.checkpoint_files import read_data
from dsparse.engine.convert import convert
from dsparse.errors import CheckpointError
from dsparse.files import FileRecord
from tests.distributed.cells import Cell, make_engine, toy_model
from tests.distributed.rank_pool import Failure, RankPool
from tests.distributed.test_checkpoint import SPARSITY, train

pytestmark = pytest.mark.distributed


class WithIdleWeights(nn.Module):
    """A sparse model beside weights that are used and not trained."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.body = toy_model(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.idle = nn.Linear(24, 24)
        self.register_buffer("count", torch.full((3,), float(seed)))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.idle(x))


def idle_engine(stage: int, how: str, seed: int) -> Any:
    """An engine whose optimizer does not have the idle weights, or has them frozen."""
    import dsparse

    model = WithIdleWeights(seed)
    model.idle.requires_grad_(how == "left out")
    given = [p for n, p in model.named_parameters() if how == "frozen but given" or not n.startswith("idle")]
    config = Cell(stage, "fp32").config(**SPARSITY, modules=["body"])
    return dsparse.initialize(model=model, config=config, model_parameters=given)[0]


def plain(engine: Any) -> dict[str, list[float]]:
    """Parameters and buffers, at stages 0 to 2."""
    named = [*engine.module.named_parameters(), *engine.module.named_buffers()]
    return {name: tensor.double().flatten().tolist() for name, tensor in named}


def save_idle(folder: str, stage: int, how: str) -> dict[str, Any]:
    """Trains and saves."""
    engine = idle_engine(stage, how, seed=1)
    train(engine, torch.float32, 1, 3)
    engine.save_checkpoint(folder, tag="saved", client_state={"losses": {key: 0.5 for key in range(12)}})
    state = plain(engine)
    engine.destroy()
    return state


def load_idle(folder: str, stage: int, how: str) -> tuple[dict[str, Any], Any]:
    """Loads into an engine with other weights."""
    engine = idle_engine(stage, how, seed=2)
    _, client_state = engine.load_checkpoint(folder)
    state = plain(engine)
    train(engine, torch.float32, 4, 5)
    engine.verify_sparsity()
    engine.destroy()
    return state, client_state["losses"]


@pytest.mark.parametrize("how", ["left out", "frozen", "frozen but given"])
@pytest.mark.parametrize(("stage", "new_stage"), [(0, 0), (0, 1), (1, 2), (2, 0), (2, 2)])
def test_weights_that_nobody_trains_come_along(
    two_ranks: RankPool, tmp_path: Path, stage: int, new_stage: int, how: str
) -> None:
    saved = two_ranks.run(save_idle, str(tmp_path), stage, how)
    for loaded, losses in two_ranks.run(load_idle, str(tmp_path), new_stage, how):
        assert loaded == saved[0]
        assert losses == {key: 0.5 for key in range(12)}


def load_what_one_rank_sees(folder: str) -> None:
    """Rank 1 looks into a folder without checkpoints, as where a network drive lags behind."""
    from deepspeed import comm as dist

    engine = make_engine(Cell(1, "fp32"), **SPARSITY)
    try:
        engine.load_checkpoint(folder if dist.get_rank() == 0 else f"{folder}/elsewhere")
    finally:
        engine.destroy()


def save_under_two_tags(folder: str) -> None:
    """Each rank its own."""
    from deepspeed import comm as dist

    engine = make_engine(Cell(1, "fp32"), **SPARSITY)
    try:
        engine.save_checkpoint(folder, tag=f"of_rank_{dist.get_rank()}")
    finally:
        engine.destroy()


def test_ranks_that_mean_different_checkpoints_do_not_wait_for_each_other(two_ranks: RankPool, tmp_path: Path) -> None:
    two_ranks.run(save_idle, str(tmp_path), 1, "frozen")
    for result in two_ranks.try_run(load_what_one_rank_sees, str(tmp_path), timeout_s=60):
        assert isinstance(result, Failure) and result.kind == "CheckpointError"
        assert "'saved' on rank 0 and None on rank 1" in result.message
    for result in two_ranks.try_run(save_under_two_tags, str(tmp_path), timeout_s=60):
        assert isinstance(result, Failure) and "'of_rank_1' on rank 1" in result.message
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"saved"}


@pytest.mark.parametrize("evil", ["../../../evil", "/evil", "a/../../../evil"])
def test_names_of_weights_cannot_lead_out_of_a_conversion(two_ranks: RankPool, tmp_path: Path, evil: str) -> None:
    two_ranks.run(save_idle, str(tmp_path / "run"), 1, "frozen")
    source = tmp_path / "run/saved"
    manifest = Manifest.read(source)
    files = dict(manifest.files)
    for path in source.glob("*.pt"):
        content = read_data(path)
        if "param_shapes" in content:
            content["param_shapes"] = [_renamed(group, evil) for group in content["param_shapes"]]
        else:
            inner = content["optimizer_state_dict"]
            inner["param_slice_mappings"] = [_renamed(group, evil) for group in inner["param_slice_mappings"]]
        torch.save(content, path)
        files[path.name] = FileRecord.of(path)
    Manifest(files=files, about=manifest.about).write(source)
    with pytest.raises(CheckpointError, match="leads elsewhere"):
        convert(source, tmp_path / "a/b/c")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    shutil.rmtree(source)


def _renamed(group: dict[str, Any], evil: str) -> dict[str, Any]:
    return {evil if name.endswith("up.weight") else name: value for name, value in group.items()}
