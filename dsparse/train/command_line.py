"""The command line of pretrain.py: every key of a run is a flag, and what is mistyped is said in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from dsparse.errors import UserError
from dsparse.train.config import RunConfig, find_input
from dsparse.train.run_yaml import require_plain_yaml

_DESCRIPTION = """Pre-trains a dynamically sparse BERT on masked words and next sentences (arXiv 2108.06277).

What the engine does (ZeRO stage, precision, optimizer, sparsity) is in the DeepSpeed JSON; model, data, steps and
logging are below. Every key below can stand in the --config file or be given as a flag; flags win."""

_EPILOG = """examples:
  two ranks on this machine, everything from the preset:
    deepspeed --num_gpus 2 launch/pretrain.py --config launch/presets/tiny.yaml --train.steps 200
  one process, no launcher, another ZeRO stage and another place for the results:
    python launch/pretrain.py --config launch/presets/tiny.yaml --deepspeed_config ds_configs/zero2.json --output runs/a
  go on where the last checkpoint of the first one was written, and see it in TensorBoard:
    deepspeed --num_gpus 2 launch/pretrain.py --config launch/presets/tiny.yaml --train.steps 200 \\
        --checkpoint.resume auto
    tensorboard --logdir runs/tiny/tensorboard"""


@dataclass(kw_only=True, frozen=True)
class CommandLine:
    """What was typed: the run, and how to treat it."""

    run: RunConfig
    """The run as YAML and flags give it."""
    debug: bool
    """Show tracebacks of user errors."""
    print_config: bool
    """Print the merged run and stop."""


def parse_command_line(argv: Sequence[str]) -> CommandLine:
    """Reads the flags and the YAML files they name. `--help` prints and exits.

    Raises:
        UserError: an unknown key or flag, a value of the wrong type, a file that is missing or no YAML.
    """
    parser = _parser()
    argv = _with_shipped_configs(argv)
    try:
        for path in _config_files(argv):
            require_plain_yaml(Path(path))
        parsed = parser.parse_args(argv)
        _require_groups(parsed)
        made = parser.instantiate(parsed)
    except UserError:
        raise
    except Exception as error:  # what jsonargparse and PyYAML raise of odd words is of many classes, and none of ours
        raise UserError(_one_line(str(error) or type(error).__name__, argv)) from error
    run = RunConfig(**{f.name: getattr(made, f.name) for f in fields(RunConfig)})
    _require_no_nulls(run, "")
    return CommandLine(run=run, debug=made.debug, print_config=made.show_config)


def _require_groups(parsed: Any) -> None:
    """Raises UserError where a value stands in the place of a group of keys, which jsonargparse lets through."""
    for one in fields(RunConfig):
        if is_dataclass(one.default_factory) and isinstance(parsed[one.name], bool | int | float | str | list):
            raise UserError(f"Expected keys and values at {one.name}. Got {parsed[one.name]!r}. {_keys_of(one.name)}")


def _require_no_nulls(group: Any, prefix: str) -> None:
    """Raises UserError for a null where there is no such choice; jsonargparse takes one anywhere."""
    for name, kind in get_type_hints(type(group)).items():
        value = getattr(group, name)
        if is_dataclass(value):
            _require_no_nulls(value, f"{prefix}{name}.")
        elif value is None and type(None) not in get_args(kind):
            raise UserError(f"Expected {prefix}{name} to be {kind.__name__}. Got null.")


def _with_shipped_configs(argv: Sequence[str]) -> list[str]:
    """The words typed, a --config that is not here but in the checkout given by its place there."""
    words = list(argv)
    for index, word in enumerate(words):
        if word.startswith("--config="):
            words[index] = f"--config={find_input(word.partition('=')[2])}"
        elif index and words[index - 1] == "--config":
            words[index] = str(find_input(word))
    return words


def _config_files(argv: Sequence[str]) -> list[str]:
    files = [argv[i + 1] for i, word in enumerate(argv[:-1]) if word == "--config"]
    return files + [word.split("=", 1)[1] for word in argv if word.startswith("--config=")]


def _parser() -> Any:
    import argparse

    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog="pretrain.py",
        usage="[deepspeed --num_gpus N | python] launch/pretrain.py [--config FILE] [--KEY VALUE ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=_formatter(),
        exit_on_error=False,
        allow_abbrev=False,
        print_config=None,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below; may be repeated.")
    parser.add_argument(
        "--print_config", dest="show_config", action="store_true", help="Print the merged run as YAML and exit."
    )
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error instead of one line.")
    parser.add_argument("--local_rank", type=int, default=0, help="Given by the deepspeed launcher; not for people.")
    parser.add_class_arguments(RunConfig)
    for action in parser._actions:
        if action.dest in {f.name for f in fields(RunConfig) if is_dataclass(f.default_factory)}:
            action.help = argparse.SUPPRESS  # one file for one group: it works, but --config is enough to know
    return parser


def _formatter() -> type:
    import argparse

    import jsonargparse

    class Formatter(jsonargparse.DefaultHelpFormatter):
        """Keeps the line breaks of description and examples."""

        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return argparse.RawDescriptionHelpFormatter._fill_text(self, text, width, indent)

    return Formatter


def _one_line(message: str, argv: Sequence[str]) -> str:
    """jsonargparse's message as one sentence that names the key."""
    wrong_type = re.search(r'Parser key "([^"]+)":.*?(?:Given value|Got value): (.*)', message, re.DOTALL)
    if wrong_type:
        allowed = dict.fromkeys(re.findall(r"Expected a <class '(\w+)'>", message))
        names = " or ".join("null" if name == "NoneType" else name for name in allowed)
        return f"Expected {wrong_type[1]} to be {names}. Got {wrong_type[2].strip()!r}"
    if "Problems parsing config" in message or "Unexpected config" in message:
        return f"Expected YAML in {' or '.join(_config_files(argv))}. {message}"
    unknown = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
    if unknown:
        return f"Unknown key {unknown[1]}.{unknown[2]}. {_keys_of(unknown[1])}"
    unknown = re.search(r"Option '([\w.]+)' is not accepted", message)
    if unknown:
        return f"Unknown key {unknown[1]}. {_keys_of('')}"
    if "unrecognized arguments" in message:
        return f"{message[0].upper()}{message[1:]}. The keys are listed by --help"
    return f"Expected keys and values as --help lists them. Got: {message}"


def _keys_of(group: str) -> str:
    owner = next((f.default_factory for f in fields(RunConfig) if f.name == group), RunConfig)
    return f"Expected one of: {', '.join(f.name for f in fields(owner))}"  # type: ignore[arg-type]
