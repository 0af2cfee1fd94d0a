"""The "dynamic_sparsity" block: everything that can be wrong with it is said, by key, value and what would be right."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from dsparse.engine.compatibility import check_config, check_parameters
from dsparse.engine.config import (
    _CHECKS,
    SparsityConfig,
    parse_sparsity_block,
    require_no_misspelt_block,
    settings_without_effect,
)
from dsparse.errors import UserError
from tests.distributed.cells import toy_model

SCHEDULER = {"type": "WarmupDecayLR", "params": {"total_num_steps": 1000}}


def test_the_defaults_are_the_papers_reference_case() -> None:
    config = parse_sparsity_block({}, SCHEDULER)
    assert config == SparsityConfig(total_steps=1000)
    assert (config.method, config.sparsity, config.block_size, config.updates) == ("set", 0.9, 16, 80)
    assert (config.drop_fraction, config.drop_schedule, config.score) == (0.5, "cosine", "l1")
    assert (config.distribution, config.regrow_dropped, config.learning_rate_rule) == ("uniform", False, "none")
    assert config.density == 0.1


def test_what_json_gives_is_taken() -> None:
    block = {"modules": ["bert.encoder"], "exclude": [], "total_steps": 100, "sparsity": 0.75, "seed": 2**63 - 1}
    config = parse_sparsity_block(json.loads(json.dumps(block)))
    assert config.modules == ("bert.encoder",) and config.exclude == ()
    assert (config.total_steps, config.sparsity, config.seed) == (100, 0.75, 2**63 - 1)


def test_every_setting_is_checked() -> None:
    assert set(_CHECKS) == {one.name for one in fields(SparsityConfig)}


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("method", ["rigl", "SET", None, 1]),
        ("sparsity", [0, 1, 0.0, 1.0, 1 - 1e-13, -0.5, 90, "0.9", True, float("nan"), None]),
        ("block_size", [0, -4, 16.0, "16", True]),
        ("distribution", ["er", "ERK"]),
        ("total_steps", [0, -1, 10.5, "100", True]),
        ("updates", [0, 1.5, "80", None]),
        ("drop_fraction", [-0.1, 1.1, "half", float("nan")]),
        ("drop_schedule", ["exp", None]),
        ("score", ["L1", "l3"]),
        ("regrow_dropped", [0, "false", None]),
        ("layout", ["dense"]),
        ("modules", ["bert.encoder", [1], [""], None]),
        ("exclude", ["x", [None]]),
        ("seed", [-1, 2**63, 1.0, True]),
        ("learning_rate_rule", ["linear", True]),
        ("verify_every", [-1, 2.5]),
    ],
)
def test_values_out_of_range_are_named(key: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(UserError) as caught:
            parse_sparsity_block({"total_steps": 1000, key: value})
        assert f"Expected dynamic_sparsity.{key} to be " in str(caught.value)
        assert f"Got {value!r}." in str(caught.value)


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(UserError) as caught:
        parse_sparsity_block({"sparcity": 0.5, "block_size": 0, "score": "l7"})
    message = str(caught.value)
    assert "Unknown key dynamic_sparsity.sparcity; did you mean 'sparsity'?" in message
    assert "block_size" in message and "'l7'" in message and "\n" not in message


@pytest.mark.parametrize("block", [None, [], "set", 0.9, True])
def test_a_block_that_is_no_object(block: Any) -> None:
    with pytest.raises(UserError, match="to be an object of settings"):
        parse_sparsity_block(block)


@pytest.mark.parametrize(
    ("block", "scheduler", "words"),
    [
        ({}, None, "Got neither"),
        ({"total_steps": 900}, SCHEDULER, "Got 900 and 1000; give one of them"),
        ({"total_steps": 79}, None, "updates = 80 with 79 steps"),
    ],
)
def test_total_steps_have_one_value(block: dict[str, Any], scheduler: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_sparsity_block(block, scheduler)


def test_total_steps_may_stand_in_both_homes_if_they_agree() -> None:
    assert parse_sparsity_block({"total_steps": 1000}, SCHEDULER).total_steps == 1000


@pytest.mark.parametrize("key", ["dynamic_sparsty", "dynamic-sparsity", "Dynamic_Sparsity", "dynamic_sparse"])
def test_a_misspelt_block_is_no_dense_run(key: str) -> None:
    with pytest.raises(UserError, match=f"Got the key '{key}'"):
        require_no_misspelt_block({"optimizer": {}, key: {}})


def test_a_dense_run_has_no_such_key() -> None:
    require_no_misspelt_block({"optimizer": {}, "zero_optimization": {}, "data_types": {}, "dynamic_lr": {}})


def test_static_needs_no_steps() -> None:
    assert parse_sparsity_block({"method": "static"}).total_steps is None


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"method": "static", "updates": 80, "score": "l2"}, ["updates, score: method 'static'"]),
        ({"method": "static"}, []),
        ({"updates": 1}, ["updates = 1"]),
        ({"drop_fraction": 0}, ["drop_fraction = 0"]),
        ({"updates": 80, "drop_fraction": 0.5}, []),
    ],
)
def test_settings_without_effect_are_named(block: dict[str, Any], words: list[str]) -> None:
    found = settings_without_effect(block, parse_sparsity_block(block, SCHEDULER))
    assert len(found) == len(words)
    assert all(word in phrase for word, phrase in zip(words, found, strict=True))


def test_all_refused_settings_are_named_at_once() -> None:
    config = {
        "optimizer": {"type": "Muon"},
        "zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}, "zero_quantized_weights": True},
    }
    with pytest.raises(UserError) as caught:
        check_config(config)
    for words in ("optimizer.type = Muon", "offload_param.device = nvme", "zero_quantized_weights"):
        assert words in str(caught.value)


def test_experts_are_refused() -> None:
    model = toy_model()
    check_parameters(model)
    model.mix.weight.allreduce = False  # type: ignore[assignment]  # how deepspeed.moe marks an expert's parameter
    with pytest.raises(UserError, match=r"'mix.weight'"):
        check_parameters(model)
