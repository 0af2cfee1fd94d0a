"""What a run is: dataclasses filled from a YAML file and flags, every key of the one being a flag of the other.

The DeepSpeed JSON says what the engine does; this says model, data, steps and logging. A fact that both could hold has
one home, here; `dsparse.train.deepspeed_config` carries it over. A field that is null here is taken from the JSON.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from dsparse.errors import UserError

CHECKOUT = Path(__file__).resolve().parents[2]
"""Root of the source tree, where `ds_configs/` and `launch/presets/` lie."""

_DESCRIPTION = """Pre-trains a dynamically sparse BERT on masked words and next sentences (arXiv 2108.06277).

What the engine does (ZeRO stage, precision, optimizer, sparsity) is in the DeepSpeed JSON; model, data, steps and
logging are below. Every key below can stand in the --config file or be given as a flag; flags win."""

_EPILOG = """examples:
  two ranks on this machine, everything from the preset:
    deepspeed --num_gpus 2 launch/pretrain.py --config launch/presets/tiny.yaml --train.steps 200
  one process, no launcher, another ZeRO stage and another place for the results:
    python launch/pretrain.py --config launch/presets/tiny.yaml --deepspeed_config ds_configs/zero2.json --output runs/a
  go on where the last checkpoint of a run was written, and see it in TensorBoard:
    deepspeed --num_gpus 2 launch/pretrain.py --config launch/presets/tiny.yaml --checkpoint.resume auto
    tensorboard --logdir runs/tiny/tensorboard"""


@dataclass(kw_only=True, frozen=True)
class ModelConfig:
    """The network; which of its weights are sparse is said by "modules" in the DeepSpeed JSON."""

    preset: str = "tiny"
    """Size by layers/hidden/heads: tiny 2/128/2, mini 4/256/4, small 4/512/8, medium 8/512/8, base 12/768/12,
    large 24/1024/16."""
    dropout: float | None = None
    """Dropout probability in the encoder and the embeddings; null is the paper's, 0.1 in models larger than small."""
    max_seq_length: int = 128
    """Number of position embeddings, tokens: the longest sequence the model takes."""


@dataclass(kw_only=True, frozen=True)
class DataConfig:
    """The text: a token store made by data_prep/prepare.py."""

    store: str = "build/store"
    """Folder of the token store."""
    seq_length: int | None = None
    """Tokens per training sequence; null takes model.max_seq_length."""
    whole_word: bool = True
    """Mask whole words, not single word pieces."""
    mask_probability: float = 0.15
    """Share of the tokens that carry a label."""
    num_workers: int = 0
    """Processes per rank that build batches ahead; 0 builds them in the training process. The batches are the same."""
    seed: int | None = None
    """Seed of the order of samples and of the masking; null takes train.seed."""


@dataclass(kw_only=True, frozen=True)
class TrainConfig:
    """How long and how fast."""

    steps: int | None = None
    """Optimizer steps of the whole run, over which the learning rate and the drop fraction decay."""
    stop_at_step: int | None = None
    """Save and stop after this step as if the machine were taken away; the schedules still span `steps`."""
    global_batch_size: int | None = None
    """Sequences per optimizer step over all ranks. It does not depend on the number of ranks."""
    micro_batch_size: int | None = None
    """Sequences per forward pass on one rank. Accumulation follows: global / (micro x ranks) must be whole.
    Null takes as many as need no accumulation."""
    learning_rate: float | None = None
    """Peak learning rate, reached at the end of the warm-up."""
    warmup_steps: int | None = None
    """Optimizer steps of linear warm-up."""
    seed: int = 42
    """Seed of the initial weights and of dropout. (The pattern has its own in the DeepSpeed JSON.)"""
    log_every: int = 10
    """Optimizer steps between two rows of metrics."""
    eval_every: int = 0
    """Optimizer steps between two evaluations on held-out text; 0 evaluates at start and end alone."""
    eval_samples: int = 512
    """Held-out sequences per evaluation, over all ranks; fewer if the store has fewer."""


@dataclass(kw_only=True, frozen=True)
class CheckpointConfig:
    """What is kept on disk to go on from."""

    save_every: int = 0
    """Optimizer steps between two checkpoints; 0 saves at the end alone."""
    resume: str = "none"
    """"none" starts afresh and refuses an output that holds checkpoints; "auto" goes on from the last one in the
    output if there is one; otherwise the folder of one checkpoint, or its name under OUTPUT/checkpoints."""


@dataclass(kw_only=True, frozen=True)
class MonitorConfig:
    """What is written for people to look at, beside OUTPUT/metrics.jsonl."""

    tensorboard: bool = True
    """Write scalars and pictures under OUTPUT/tensorboard."""
    pattern_every: int = 10
    """Pattern updates between two pictures of patterns in TensorBoard; 0 draws none."""
    log_level: str = "warning"
    """What DeepSpeed may say: debug, info, warning or error."""


@dataclass(kw_only=True, frozen=True)
class RunConfig:
    """One pre-training run."""

    deepspeed_config: str = "ds_configs/zero1.json"
    """The DeepSpeed JSON, with its "dynamic_sparsity" block. Without that block the run is dense."""
    output: str | None = None
    """Folder for metrics, checkpoints, TensorBoard and the summary; null is runs/<model.preset>."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network"""
    data: DataConfig = field(default_factory=DataConfig)
    """The text"""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How long and how fast"""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """What is kept to go on from"""
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    """What is written for people"""

    def problems(self) -> list[str]:
        """Every value that no DeepSpeed JSON could make right, one sentence each; empty when there is none."""
        limits: list[tuple[str, float | None, float, float | None]] = [
            ("model.max_seq_length", self.model.max_seq_length, 8, None),
            ("model.dropout", self.model.dropout, 0.0, 1.0),
            ("data.seq_length", self.data.seq_length, 8, None),
            ("data.mask_probability", self.data.mask_probability, 0.0, 1.0),
            ("data.num_workers", self.data.num_workers, 0, None),
            ("data.seed", self.data.seed, 0, 2**63 - 1),
            ("train.steps", self.train.steps, 1, None),
            ("train.stop_at_step", self.train.stop_at_step, 1, None),
            ("train.global_batch_size", self.train.global_batch_size, 1, None),
            ("train.micro_batch_size", self.train.micro_batch_size, 1, None),
            ("train.learning_rate", self.train.learning_rate, 0.0, None),
            ("train.warmup_steps", self.train.warmup_steps, 0, None),
            ("train.seed", self.train.seed, 0, 2**63 - 1),
            ("train.log_every", self.train.log_every, 1, None),
            ("train.eval_every", self.train.eval_every, 0, None),
            ("train.eval_samples", self.train.eval_samples, 1, None),
            ("checkpoint.save_every", self.checkpoint.save_every, 0, None),
            ("monitor.pattern_every", self.monitor.pattern_every, 0, None),
        ]
        found = [
            f"Expected {name} {_range(low, high)}. Got {value}"
            for name, value, low, high in limits
            if value is not None and not (low <= value <= (high if high is not None else float("inf")))
        ]
        pairs = [
            ("train.warmup_steps", self.train.warmup_steps, "train.steps", self.train.steps),
            ("train.stop_at_step", self.train.stop_at_step, "train.steps", self.train.steps),
            ("data.seq_length", self.data.seq_length, "model.max_seq_length", self.model.max_seq_length),
        ]
        found += [
            f"Expected {name} to be at most {of}. Got {value} and {limit}"
            for name, value, of, limit in pairs
            if value is not None and limit is not None and value > limit
        ]
        if self.monitor.log_level not in ("debug", "info", "warning", "error"):
            found.append(f"Expected monitor.log_level debug, info, warning or error. Got {self.monitor.log_level!r}")
        return found


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
    from argparse import ArgumentError

    parser = _parser()
    try:
        parsed = parser.parse_args(list(argv))
    except (ArgumentError, TypeError) as error:
        raise UserError(_one_line(str(error), argv)) from error
    made = parser.instantiate(parsed)
    run = RunConfig(**{f.name: getattr(made, f.name) for f in fields(RunConfig)})
    return CommandLine(run=run, debug=made.debug, print_config=made.show_config)


def find_input(path: str) -> Path:
    """Absolute path of an input file or folder: as given, or under the checkout if it is there and not here."""
    here, shipped = Path(path).expanduser(), CHECKOUT / path
    return (shipped if not here.exists() and shipped.exists() else here).absolute()


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
        files = [argv[i + 1] for i, word in enumerate(argv[:-1]) if word == "--config"]
        files += [word.split("=", 1)[1] for word in argv if word.startswith("--config=")]
        return f"Expected YAML in {' or '.join(files)}. {message}"
    unknown = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
    if unknown:
        return f"Unknown key {unknown[1]}.{unknown[2]}. {_keys_of(unknown[1])}"
    unknown = re.search(r"Option '([\w.]+)' is not accepted", message)
    if unknown:
        return f"Unknown key {unknown[1]}. {_keys_of('')}"
    if "unrecognized arguments" in message:
        return f"{message[0].upper()}{message[1:]}. The keys are listed by --help"
    return message


def _keys_of(group: str) -> str:
    owner = next((f.default_factory for f in fields(RunConfig) if f.name == group), RunConfig)
    return f"Expected one of: {', '.join(f.name for f in fields(owner))}"  # type: ignore[arg-type]


def _range(low: float, high: float | None) -> str:
    return f"at least {low}" if high is None else f"from {low} to {high}"
