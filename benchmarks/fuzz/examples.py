"""Whole runs for fuzzing: a run YAML, a DeepSpeed JSON and flags, mostly right, their values at the edges, or broken.

Every run is small: a BERT-Tiny on short sequences that stops after a few steps, whatever its YAML says, for the last
flag says so. It reads a store at `../store` and is started in a folder of its own.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from benchmarks.fuzz.mutations import EXTRAS, FLAGS, FileKind, Spoiled, mutate, spoil

RUN_FILE, ENGINE_FILE, STORE = "run.yaml", "engine.json", "../store"


@dataclass(frozen=True, kw_only=True)
class Example:
    """What is typed, and the files it names."""

    run: Spoiled
    """The run YAML."""
    engine: Spoiled
    """The DeepSpeed JSON."""
    flags: tuple[str, ...]
    num_ranks: int
    spoilings: tuple[str, ...]
    """What was done to a run that was right, one word each; empty where all was meant to be right."""

    @property
    def argv(self) -> list[str]:
        """The words after `pretrain.py`."""
        return ["--config", RUN_FILE, *self.flags]

    def shown(self) -> str:
        """What to see it again by, very long words cut."""
        files = [(RUN_FILE, self.run), (ENGINE_FILE, self.engine)]
        texts = [f"{name} ({one.kind}): {one.content[:3000]!r}" for name, one in files]
        argv = [word[:300] for word in self.argv]
        return "\n".join([f"argv: {argv!r}, ranks: {self.num_ranks}, spoilt: {self.spoilings}", *texts])


def drawn(number: int) -> Iterator[Example]:
    """Examples without end, no two the same; a function of the number."""
    seen: set[Example] = set()
    for turn in itertools.count():
        example = _draw_one(f"{number}/{turn}")
        if example not in seen:
            seen.add(example)
            yield example


def _draw_one(key: str) -> Example:
    """Hypothesis follows each example by variations of it, nearly all refused for one reason; so one is drawn alone."""
    found: list[Example] = []

    @seed(key)
    @settings(
        max_examples=2,  # the first is always the simplest
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(examples())
    def keep(example: Example) -> None:
        found.append(example)

    keep()
    return found[-1]


@st.composite
def examples(draw: DrawFn) -> Example:
    """Runs of which about half are meant to be right."""
    engine = draw(right_engines())
    run = draw(right_runs(has_scheduler="scheduler" in engine))
    flags, spoilings = draw(st.sampled_from(_GOOD_FLAGS)), []
    run_file = engine_file = None
    for where in draw(st.sampled_from(_WHERE)):
        spoilings.append(where)
        if where == "run":
            draw(mutate(run))
        elif where == "engine":
            draw(mutate(engine))
        elif where == "block":
            draw(mutate(engine.setdefault("dynamic_sparsity", {})))
        elif where == "extra":
            _put(engine, *draw(st.sampled_from(EXTRAS)))
        elif where == "flag":
            flags = (*flags, *draw(st.sampled_from(FLAGS)))
        elif where == "run file":
            run_file = draw(spoil(_yaml(run), is_yaml=True))
        elif where == "engine file":
            engine_file = draw(spoil(_json(engine), is_yaml=False))
    stop = f"--train.stop_at_step={draw(st.sampled_from([2, 2, 2, 3]))}"
    return Example(
        run=run_file or Spoiled(FileKind.FILE, _yaml(run)),
        engine=engine_file or Spoiled(FileKind.FILE, _json(engine)),
        flags=(*flags, stop),
        num_ranks=draw(st.sampled_from([1, 1, 1, 2, 1, 1, 1, 1])),
        spoilings=tuple(spoilings),
    )


_WHERE: list[tuple[str, ...]] = [
    *[()] * 9, ("run",), ("run",), ("engine",), ("engine",), ("block",), ("block",), ("extra",), ("extra",),
    ("flag",), ("flag",), ("run file",), ("engine file",), ("run", "block"), ("engine", "extra"),
    ("flag", "engine", "block"),
]  # fmt: skip
_GOOD_FLAGS: list[tuple[str, ...]] = [
    *[()] * 6, ("--train.log_every", "1"), ("--train.eval_every=1",), ("--monitor.tensorboard", "false"),
    ("--checkpoint.resume", "auto"), ("--data.num_workers", "1"), ("--local_rank=0",), ("--model.dropout=0.5",),
    ("--checkpoint.save_every", "1"), ("--monitor.tensorboard=true",),
]  # fmt: skip


@st.composite
def right_runs(draw: DrawFn, *, has_scheduler: bool) -> dict[str, Any]:
    """Run YAMLs that say what they may, at its edges; what a JSON says of the same fact may still contradict them."""
    steps = draw(st.sampled_from([4, 4, 4, 5, 10**6]))
    micro = draw(st.sampled_from([1, 2, 2, None]))
    return {
        "deepspeed_config": ENGINE_FILE,
        "output": draw(st.sampled_from(["out", "out", "out", "deep/er/out", "läuft", None])),
        "model": {
            "preset": "tiny",
            "dropout": draw(st.sampled_from([None, 0.0, 0.1, 0.999])),
            "max_seq_length": draw(st.sampled_from([8, 16, 32, 33])),
        },
        "data": {
            "store": STORE,
            "seq_length": draw(st.sampled_from([None, None, 8])),
            "whole_word": draw(st.booleans()),
            "mask_probability": draw(st.sampled_from([0.15, 0.15, 1.0, 1e-9])),
            "seed": draw(st.sampled_from([None, 0, 2**63 - 1])),
        },
        "train": {
            "steps": steps,
            "global_batch_size": draw(st.sampled_from([2, 4, 4, 8])),
            "micro_batch_size": micro,
            "learning_rate": draw(st.sampled_from([1e-3, 1e-3, 0.0, 1e-30, 10.0])),
            "warmup_steps": draw(st.sampled_from([2, 2, 3] if has_scheduler else [None, 0])),
            "seed": draw(st.sampled_from([42, 0, 2**63 - 1])),
            "log_every": draw(st.sampled_from([1, 10])),
            "eval_every": draw(st.sampled_from([0, 2])),
            "eval_samples": draw(st.sampled_from([1, 3])),
        },
        "checkpoint": {"save_every": draw(st.sampled_from([0, 2]))},
        "monitor": {
            # TensorBoard's pictures take as long as the training.
            "tensorboard": draw(st.sampled_from([False, False, False, True])),
            "pattern_every": draw(st.sampled_from([0, 1, 10])),
            "log_level": draw(st.sampled_from(["warning", "error"])),
        },
    }


@st.composite
def right_engines(draw: DrawFn) -> dict[str, Any]:
    """DeepSpeed JSONs that say what they may, at its edges."""
    stage = draw(st.sampled_from([0, 1, 2, 3]))
    engine: dict[str, Any] = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "optimizer": draw(st.sampled_from(_OPTIMIZERS)),
        "gradient_clipping": draw(st.sampled_from([1.0, 0.0, 1e-6, 1e9])),
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
    }
    scheduler = draw(st.sampled_from(_SCHEDULERS))
    if scheduler is not None:
        engine["scheduler"] = scheduler
    precision = draw(st.sampled_from([None, None, None, "bf16", "fp16", "bf16", "bf16", None]))
    if precision is not None:
        engine[precision] = {"enabled": True}
    if stage and draw(st.sampled_from([False, False, True])):
        engine["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
        engine["zero_force_ds_cpu_optimizer"] = False
        if stage == 3 and draw(st.booleans()):
            engine["zero_optimization"]["offload_param"] = {"device": "cpu"}
    if draw(st.sampled_from([True] * 4 + [False] + [True] * 4)):
        engine["dynamic_sparsity"] = draw(right_blocks())
    # What is drawn from a list is one object for all draws, and mutations write into it.
    return copy.deepcopy(engine)


@st.composite
def right_blocks(draw: DrawFn) -> dict[str, Any]:
    """The block with some of its keys, or all."""
    every = {
        "method": st.sampled_from(["set", "set", "set", "static"]),
        "sparsity": st.sampled_from([0.9, 0.9, 0.5, 1e-9, 0.999999, 0.125]),
        "block_size": st.sampled_from([16, 1, 4, 128, 64, 16]),
        "distribution": st.sampled_from(["uniform", "erk"]),
        "total_steps": st.sampled_from(["auto", "auto", None]),
        "drop_fraction": st.sampled_from([0.5, 0.0, 1.0, 1e-9]),
        "drop_schedule": st.sampled_from(["cosine", "linear", "constant"]),
        "score": st.sampled_from(["l1", "l2", "linf"]),
        "regrow_dropped": st.booleans(),
        "layout": st.just("masked"),
        "modules": st.sampled_from([["bert.encoder"], ["bert.encoder"], ["re:query|key"], ["layer.1", "layer.0"]]),
        "exclude": st.sampled_from([[], ["output"], ["re:^bert\\.pooler", "cls"]]),
        "seed": st.sampled_from([42, 0, 2**63 - 1]),
        "learning_rate_rule": st.sampled_from(["none", "paper"]),
        "verify_every": st.sampled_from([1, 0, 10]),
    }
    left_out = draw(st.sets(st.sampled_from(sorted(every)), max_size=6))
    block: dict[str, Any] = {key: draw(values) for key, values in every.items() if key not in left_out}
    if "modules" not in block:
        # Heads with two and with a prime number of rows, which no block but 1 divides.
        block["exclude"] = ["cls"]
    return block | {"updates": draw(st.sampled_from([2, 3, 3, 1, 4]))}


def _optimizer(kind: str, **params: Any) -> dict[str, Any]:
    return {"type": kind, "params": {"lr": "auto", **params}}


_OPTIMIZERS = [
    _optimizer("AdamW", torch_adam=True, weight_decay=0.01, betas=[0.9, 0.999], eps=1e-8),
    _optimizer("AdamW", torch_adam=True, amsgrad=True),
    _optimizer("Adam", torch_adam=True, weight_decay=0.1, eps=1e-30),
    _optimizer("Adam", torch_adam=True, adam_w_mode=False, betas=[0.0, 0.0]),
    _optimizer("AdamW"),
    _optimizer("SGD", momentum=0.9),
    _optimizer("SGD", momentum=0.9, nesterov=True, weight_decay=1.0),
    _optimizer("SGD"),
]
_SHARED_RATE = {"warmup_max_lr": "auto", "warmup_num_steps": "auto"}
_SCHEDULERS: list[dict[str, Any] | None] = [
    None,
    {"type": "WarmupLR", "params": {"warmup_min_lr": 0.0, **_SHARED_RATE}},
    {"type": "WarmupDecayLR", "params": {"warmup_type": "linear", "total_num_steps": "auto", **_SHARED_RATE}},
    {"type": "WarmupDecayLR", "params": {"warmup_type": "log", "total_num_steps": "auto", **_SHARED_RATE}},
    {"type": "WarmupCosineLR", "params": {"warmup_num_steps": "auto", "total_num_steps": "auto"}},
    {"type": "WarmupCosineLR", "params": {"warmup_num_steps": "auto", "cos_min_ratio": 1.0}},
]


def _put(engine: dict[str, Any], place: str, value: Any) -> None:
    """Sets a value by its dotted place, where there is an object to set it in."""
    node: Any = engine
    *owners, last = place.split(".")
    for owner in owners:
        node = node.setdefault(owner, {}) if isinstance(node, dict) else None
    if isinstance(node, dict):
        node[last] = copy.deepcopy(value)


def _yaml(settings: Any) -> bytes:
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")


def _json(engine: Any) -> bytes:
    return json.dumps(engine, indent=1).encode()
