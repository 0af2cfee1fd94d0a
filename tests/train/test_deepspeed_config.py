"""One home for each fact: run and DeepSpeed JSON are joined, and contradictions told with both values and places."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsparse.errors import UserError
from dsparse.train.config import RunConfig, TrainConfig
from dsparse.train.deepspeed_config import MergedRun, merge
from dsparse.train.deepspeed_json import read_json

JSON_PATH = Path("configs/engine.json")
TRAIN = TrainConfig(steps=100, global_batch_size=32, micro_batch_size=8, learning_rate=1e-3, warmup_steps=10)
RUN = RunConfig(train=TRAIN)
AUTO: dict[str, Any] = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "optimizer": {"type": "AdamW", "params": {"lr": "auto"}},
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {"warmup_max_lr": "auto", "warmup_num_steps": "auto", "total_num_steps": "auto"},
    },
    "dynamic_sparsity": {"total_steps": "auto", "updates": 20},
}


def merged(run: RunConfig = RUN, *, world_size: int = 2, **changes: Any) -> MergedRun:
    return merge(run, {**copy.deepcopy(AUTO), **changes}, json_path=JSON_PATH, world_size=world_size)


def without(**nulls: Any) -> RunConfig:
    return replace(RUN, train=replace(TRAIN, **nulls))


def test_auto_and_absent_are_filled_from_the_run() -> None:
    config = merged().deepspeed
    assert config["train_batch_size"] == 32
    assert config["train_micro_batch_size_per_gpu"] == 8
    assert config["gradient_accumulation_steps"] == 2
    assert config["optimizer"]["params"]["lr"] == 1e-3
    assert config["scheduler"]["params"] == {"warmup_max_lr": 1e-3, "warmup_num_steps": 10, "total_num_steps": 100}
    assert config["dynamic_sparsity"]["total_steps"] == 100
    bare = {"optimizer": {"type": "AdamW", "params": {}}, "scheduler": {"type": "WarmupDecayLR", "params": {}}}
    absent = merge(RUN, {**bare, "dynamic_sparsity": {"updates": 20}}, json_path=JSON_PATH, world_size=2).deepspeed
    assert {key: absent[key] for key in AUTO} == {key: config[key] for key in AUTO}


def test_the_json_as_read_is_not_changed() -> None:
    written = copy.deepcopy(AUTO)
    merge(RUN, written, json_path=JSON_PATH, world_size=2)
    assert written == AUTO


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_global_batch_is_the_same_for_any_number_of_ranks(world_size: int) -> None:
    found = merged(world_size=world_size)
    assert found.global_batch_size == 32
    assert found.micro_batch_size * world_size * found.gradient_accumulation_steps == 32


def test_equal_values_in_both_homes_are_fine() -> None:
    assert merged(train_batch_size=32).deepspeed == merged().deepspeed


@pytest.mark.parametrize(
    ("field", "changes", "value"),
    [
        ("global_batch_size", {"train_batch_size": 16}, 16),
        ("micro_batch_size", {"train_micro_batch_size_per_gpu": 4}, 4),
        ("learning_rate", {"optimizer": {"type": "AdamW", "params": {"lr": 5e-4}}}, 5e-4),
        ("warmup_steps", {"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 3}}}, 3),
        ("steps", {"scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": 50}}}, 50),
        ("steps", {"dynamic_sparsity": {"total_steps": 60, "updates": 20}}, 60),
    ],
)
def test_each_fact_is_taken_from_the_json_if_the_run_leaves_it_null(
    field: str, changes: dict[str, Any], value: float
) -> None:
    found = merged(without(**{field: None}), **changes)
    assert getattr(found.run.train, field) == value
    with pytest.raises(UserError) as caught:
        merged(**changes)
    message = str(caught.value)
    assert f"train.{field} = {getattr(TRAIN, field)}" in message
    assert f"= {value!r} in engine.json" in message


def test_a_fact_that_nobody_gives_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"train\.steps in the run or the JSON.*train\.learning_rate in the run"):
        merged(without(steps=None, learning_rate=None))


def test_two_places_of_the_json_must_agree_too() -> None:
    changes = {
        "scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": 50}},
        "dynamic_sparsity": {"total_steps": 60, "updates": 20},
    }
    with pytest.raises(UserError, match=r"scheduler\.params\.total_num_steps.*50.*dynamic_sparsity\.total_steps = 60"):
        merged(without(steps=None), **changes)


def test_all_problems_come_in_one_line() -> None:
    with pytest.raises(UserError) as caught:
        merged(train_batch_size=16, train_micro_batch_size_per_gpu=4, optimiser={}, gradient_clipping="auto")
    message = str(caught.value)
    assert "\n" not in message
    for words in ("train_batch_size = 16", "per_gpu = 4", "Did you mean 'optimizer'", "gradient_clipping"):
        assert words in message
    assert message.count("; ") >= 3


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match=r"multiple of train\.micro_batch_size x ranks. Got 32 and 8 x 3"):
        merged(world_size=3)


def test_the_micro_batch_can_be_left_to_us() -> None:
    found = merged(without(micro_batch_size=None))
    assert (found.micro_batch_size, found.gradient_accumulation_steps) == (16, 1)
    found = merged(without(micro_batch_size=None), gradient_accumulation_steps=4)
    assert (found.micro_batch_size, found.gradient_accumulation_steps) == (4, 4)


def test_an_accumulation_that_contradicts_is_refused() -> None:
    with pytest.raises(UserError, match=r"gradient_accumulation_steps in engine\.json to be 2.*Got 3"):
        merged(gradient_accumulation_steps=3)
    assert merged(gradient_accumulation_steps=2).gradient_accumulation_steps == 2


def test_without_a_scheduler_there_is_no_warm_up_to_give() -> None:
    written = {"optimizer": AUTO["optimizer"], "dynamic_sparsity": {}}
    found = merge(without(warmup_steps=None), written, json_path=JSON_PATH, world_size=1)
    assert found.run.train.warmup_steps == 0
    assert "scheduler" not in found.deepspeed


def test_a_dense_json_stays_dense() -> None:
    written = {key: value for key, value in copy.deepcopy(AUTO).items() if key != "dynamic_sparsity"}
    assert "dynamic_sparsity" not in merge(RUN, written, json_path=JSON_PATH, world_size=2).deepspeed


def test_tensorboard_goes_under_the_output(tmp_path: Path) -> None:
    found = merged(replace(RUN, output=str(tmp_path)))
    assert found.deepspeed["tensorboard"] == {"enabled": True, "output_path": str(tmp_path), "job_name": "tensorboard"}
    with pytest.raises(UserError, match="tensorboard"):
        merged(tensorboard={"enabled": True, "output_path": "elsewhere"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n  "a": 1,\n  "b": }\n', ["line 3", "column 8"]),
        ('{"a": 1, "a": 2}', ["a twice"]),
        ("[1]", ["object", "list"]),
    ],
)
def test_json_that_cannot_be_read_is_located(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "engine.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_json(path)
    assert [word for word in [str(path), *words] if word not in str(caught.value)] == []


def test_a_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"deepspeed_config.*nowhere\.json"):
        read_json(tmp_path / "nowhere.json")
