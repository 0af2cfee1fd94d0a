"""The run's own configuration: YAML and flags, what is refused, and in which words."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from dsparse.errors import UserError
from dsparse.train.command_line import parse_command_line
from dsparse.train.config import CHECKOUT, RunConfig, find_input

GROUPS = ("model", "data", "train", "checkpoint", "monitor")


def test_flags_win_over_yaml_and_yaml_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train:\n  steps: 7\n  learning_rate: 2e-3\nmodel:\n  preset: mini\n")
    run = parse_command_line(["--local_rank=1", "--config", str(path), "--train.steps", "9"]).run
    assert (run.train.steps, run.train.learning_rate, run.model.preset, run.train.log_every) == (9, 2e-3, "mini", 10)


def test_debug_and_print_config_are_plain_switches() -> None:
    command = parse_command_line(["--debug", "--print_config"])
    assert command.debug and command.print_config
    assert not parse_command_line([]).debug


@pytest.mark.parametrize(
    ("yaml", "flags", "words"),
    [
        ("train:\n  stepps: 3\n", [], ["train.stepps", "steps", "warmup_steps"]),
        ("stepps: 3\n", [], ["stepps", "train", "model"]),
        ("train: [\n", [], ["Expected YAML in", "run.yaml", "line 2"]),
        ("train:\n  steps: many\n", [], ["train.steps", "int or null", "'many'"]),
        ("{}", ["--train.stepps", "3"], ["--train.stepps", "--help"]),
        ("{}", ["--model.dropout", "half"], ["model.dropout", "float or null", "'half'"]),
        ("{}", ["--data.whole_word", "3"], ["data.whole_word", "bool", "'3'"]),
        ("{}", ["--train.learning_rate", "nan"], ["train.learning_rate", "float or null. ", "'nan'"]),
        ("", [], ["run.yaml"]),
        ("{}", ["--config", "nowhere.yaml"], ["nowhere.yaml", "not exist"]),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path, yaml: str, flags: list[str], words: list[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml)
    with pytest.raises(UserError) as caught:
        parse_command_line(["--config", str(path), *flags])
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--train.steps", "0"], ["train.steps", "at least 1", "0"]),
        (["--train.steps", "5", "--train.warmup_steps", "6"], ["train.warmup_steps", "train.steps", "6 and 5"]),
        (["--train.steps", "5", "--train.stop_at_step", "6"], ["train.stop_at_step", "6 and 5"]),
        (["--train.learning_rate=-1"], ["train.learning_rate"]),
        (["--data.mask_probability", "1.5"], ["data.mask_probability", "from 0.0 to 1.0"]),
        (["--data.seq_length", "256"], ["data.seq_length", "model.max_seq_length", "256 and 128"]),
        (["--monitor.log_level", "loud"], ["monitor.log_level", "'loud'"]),
    ],
)
def test_values_out_of_range_are_named(flags: list[str], words: list[str]) -> None:
    problems = parse_command_line(flags).run.problems()
    assert len(problems) == 1
    assert [word for word in words if word not in problems[0]] == []


def test_every_problem_is_listed() -> None:
    run = parse_command_line(["--train.steps", "0", "--train.log_every", "0", "--train.eval_samples", "0"]).run
    assert len(run.problems()) == 3


def test_defaults_have_no_problems() -> None:
    assert RunConfig().problems() == []


def test_help_shows_every_key_with_its_meaning_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_command_line(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert text.count("launch/pretrain.py --config") >= 3
    for group in GROUPS:
        owner = next(f.default_factory for f in fields(RunConfig) if f.name == group)
        for field in fields(owner):  # type: ignore[arg-type]
            flag = f"--{group}.{field.name}"
            assert flag in text
            # A key without a docstring would have its type and default for all its help.
            assert text.split(flag, 1)[1].split(maxsplit=1)[1].lstrip()[0] != "("


def test_inputs_are_looked_for_here_then_in_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_input("ds_configs/zero1.json") == CHECKOUT / "ds_configs/zero1.json"
    (tmp_path / "ds_configs").mkdir()
    (tmp_path / "ds_configs/zero1.json").write_text("{}")
    assert find_input("ds_configs/zero1.json") == tmp_path / "ds_configs/zero1.json"
    assert find_input("nowhere.json") == tmp_path / "nowhere.json"
