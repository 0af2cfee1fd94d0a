"""What a run is: dataclasses filled from a YAML file and flags, every key of the one being a flag of the other.

The DeepSpeed JSON says what the engine does; this says model, data, steps and logging. A fact that both could hold has
one home, here; `dsparse.train.deepspeed_config` carries it over. A field that is null here is taken from the JSON.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

_MOST_TOKENS = 2**20
_MOST_WORKERS = 256

CHECKOUT = Path(__file__).resolve().parents[2]
"""Root of the source tree, where `ds_configs/` and `launch/presets/` lie."""


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
    """Seed of the initial weights, of dropout and, unless data.seed is given, of the order of samples and the masking.
    (The pattern has its own in the DeepSpeed JSON.)"""
    log_every: int = 10
    """Optimizer steps between two rows of metrics."""
    eval_every: int = 0
    """Optimizer steps between two evaluations on held-out text; 0 evaluates at start and end alone."""
    eval_samples: int = 512
    """Held-out sequences per evaluation, over all ranks; fewer if the store has fewer."""
    max_skipped_steps: int = 25
    """How many steps in a row may go unapplied, because a loss or a gradient was not finite, before the run stops."""
    timeout_s: float = 600.0
    """Seconds without a sign of life or without progress after which a rank is given up, and the run ended on all."""


@dataclass(kw_only=True, frozen=True)
class CheckpointConfig:
    """What is kept on disk to go on from."""

    save_every: int = 0
    """Optimizer steps between two checkpoints; 0 saves at the end alone."""
    resume: str = "none"
    """"none" starts afresh and refuses an output that holds checkpoints; "auto" goes on from the last one in the
    output if there is one; "last-good" from the last of which every byte is as it was written; otherwise the folder of
    one checkpoint, or its name under OUTPUT/checkpoints."""
    keep: int = 0
    """How many of the last checkpoints stay on disk; 0 keeps all."""
    keep_every: int = 0
    """With `keep`, checkpoints at a multiple of so many steps stay too; 0 keeps none for that."""


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
            ("model.max_seq_length", self.model.max_seq_length, 8, _MOST_TOKENS),
            ("model.dropout", self.model.dropout, 0.0, 1.0),
            ("data.seq_length", self.data.seq_length, 8, None),
            ("data.mask_probability", self.data.mask_probability, 0.0, 1.0),
            ("data.num_workers", self.data.num_workers, 0, _MOST_WORKERS),
            ("data.seed", None if self.data.seed == self.train.seed else self.data.seed, 0, 2**63 - 1),
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
            ("train.max_skipped_steps", self.train.max_skipped_steps, 1, None),
            ("train.timeout_s", self.train.timeout_s, 2.0, 604_800.0),
            ("checkpoint.save_every", self.checkpoint.save_every, 0, None),
            ("checkpoint.keep", self.checkpoint.keep, 0, None),
            ("checkpoint.keep_every", self.checkpoint.keep_every, 0, None),
            ("monitor.pattern_every", self.monitor.pattern_every, 0, None),
        ]
        found = [
            f"Expected {name} {_range(low, high)}. Got {value}"
            for name, value, low, high in limits
            if value is not None and not (low <= value <= (high if high is not None else sys.float_info.max))
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


def find_input(path: str) -> Path:
    """Absolute path of an input file or folder: as given, or under the checkout if it is there and not here."""
    here, shipped = Path(path).expanduser(), CHECKOUT / path
    return (shipped if not here.exists() and shipped.exists() else here).absolute()


def _range(low: float, high: float | None) -> str:
    return f"at least {low}" if high is None else f"from {low} to {high}"
