"""Every preset with every DeepSpeed JSON we ship: loads, agrees, and fits the model."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from dsparse.engine.initialize import check_sparse_run
from dsparse.models.bert import PRESETS, BertForLabelledPreTraining, bert_config
from dsparse.train.command_line import parse_command_line
from dsparse.train.config import CHECKOUT
from dsparse.train.deepspeed_config import merge
from dsparse.train.deepspeed_json import read_json

PRESET_FILES = sorted((CHECKOUT / "launch/presets").glob("*.yaml"))
JSON_FILES = sorted((CHECKOUT / "ds_configs").glob("*.json"))


@cache
def model_without_storage(preset: str) -> nn.Module:
    with torch.device("meta"):
        return BertForLabelledPreTraining(bert_config(preset, vocab_size=128, dropout=0.0))


def test_every_size_has_a_preset_of_its_name() -> None:
    assert {path.stem for path in PRESET_FILES} == set(PRESETS)
    for path in PRESET_FILES:
        assert parse_command_line(["--config", str(path)]).run.model.preset == path.stem


@pytest.mark.parametrize("json_path", JSON_FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("preset_path", PRESET_FILES, ids=lambda path: path.stem)
def test_preset_and_json_fit(preset_path: Path, json_path: Path) -> None:
    run = parse_command_line(["--config", str(preset_path)]).run
    merged = merge(run, read_json(json_path), json_path=json_path, world_size=2)
    sparsity = check_sparse_run(merged.deepspeed, model_without_storage(preset_path.stem))
    assert sparsity.total_steps == run.train.steps
    assert sparsity.updates <= (run.train.steps or 0)


@pytest.mark.parametrize("path", PRESET_FILES, ids=lambda path: path.stem)
def test_a_preset_names_a_json_that_is_there(path: Path) -> None:
    assert (CHECKOUT / parse_command_line(["--config", str(path)]).run.deepspeed_config).is_file()


def test_all_stages_and_precisions_are_shipped() -> None:
    names = {path.stem for path in JSON_FILES}
    assert {"zero0", "zero1", "zero2", "zero3", "zero1_bf16", "zero1_fp16", "zero2_offload"} <= names
    for path in JSON_FILES:
        stage = read_json(path)["zero_optimization"]["stage"]
        assert path.stem.startswith(f"zero{stage}")


def test_the_sparsity_block_is_the_same_everywhere() -> None:
    blocks = [read_json(path)["dynamic_sparsity"] for path in JSON_FILES]
    assert all(block == blocks[0] for block in blocks)
