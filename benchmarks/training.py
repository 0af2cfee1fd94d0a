"""What the benchmarks of the packed layout share: a BERT, a step of training, and runs measured in turn.

Everything around the sparse products is the same code for dense and packed: vocabulary head on labelled positions, SDPA
attention, no dropout, clipping, fused AdamW. Runs share one process and take a step each in turn on the same batch, so
that whatever the machine does meanwhile happens to all of them.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import dsparse
from dsparse.engine.config import SparsityConfig
from dsparse.engine.initialize import initial_patterns, shape_of
from dsparse.kernels.backend import KERNELS
from dsparse.layout.convert import pack_linears
from dsparse.models.bert import ENCODER_MODULES, PRESETS, build_bert
from dsparse.models.selection import select_weights
from dsparse.pattern.block_pattern import BlockPattern

VOCAB_SIZE, SEQ_LENGTH = 8192, 128
LABELLED = 0.15
LEARNING_RATE, WEIGHT_DECAY, MAX_NORM = 1e-4, 0.01, 1.0


class Run(Protocol):
    """Something that trains."""

    def step(self, batch: Mapping[str, Tensor]) -> float:
        """One optimizer step; its loss."""


class BareRun:
    """Plain torch: nothing but the model, clipping and AdamW."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss."""
        return self.model(**batch).loss

    def clip(self) -> None:
        """Clips the gradients by their norm."""
        torch.nn.utils.clip_grad_norm_(self.parameters, MAX_NORM)

    def update(self) -> None:
        """Steps, and frees the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step(self, batch: Mapping[str, Tensor]) -> float:
        """One optimizer step; its loss."""
        loss = self.forward(batch)
        loss.backward()
        self.clip()
        self.update()
        return loss.item()


class EngineRun:
    """DeepSpeed's engine, or ours, under ZeRO 1 on one rank."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def step(self, batch: Mapping[str, Tensor]) -> float:
        """One optimizer step; its loss."""
        loss = self.engine(**batch).loss
        self.engine.backward(loss)
        self.engine.step()
        return loss.item()


def build(size: str) -> nn.Module:
    """A dense BERT of a preset's size, the same bits at every call."""
    return build_bert(size, vocab_size=VOCAB_SIZE, max_seq_length=SEQ_LENGTH, dropout=0.0, seed=0)


def encoder_patterns(model: nn.Module, sparsity: float, block: int) -> dict[str, BlockPattern]:
    """The patterns that a run with these settings starts with, by parameter name."""
    weights = select_weights(model, modules=ENCODER_MODULES)
    settings = SparsityConfig(sparsity=sparsity, block_size=block)
    return initial_patterns({name: shape_of(weight) for name, weight in weights.items()}, settings)


def pack_encoder(model: nn.Module, sparsity: float, block: int, kernel: Any = "auto") -> nn.Module:
    """The model with its encoder's matrices packed, in place."""
    pack_linears(model, encoder_patterns(model, sparsity, block), kernel=kernel)
    return model


def make_engine(size: str, batch: int, sparsity_block: Mapping[str, Any] | None) -> Any:
    """An engine made by `dsparse.initialize`: DeepSpeed's own without a block."""
    model = build(size)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": batch,
        "gradient_clipping": MAX_NORM,
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, "torch_adam": True},
        },
        "zero_optimization": {"stage": 1},
        "steps_per_print": 10**9,
    }
    if sparsity_block is not None:
        config["dynamic_sparsity"] = {"modules": ENCODER_MODULES, **sparsity_block}
    return dsparse.initialize(model=model, model_parameters=model.parameters(), config=config)[0]


def random_batch(number: int, batch: int) -> dict[str, Tensor]:
    """Random tokens with labels at 15 % of the positions, a function of the number."""
    random = torch.Generator().manual_seed(number)
    ids = torch.randint(5, VOCAB_SIZE, (batch, SEQ_LENGTH), generator=random)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
        "labels": torch.where(torch.rand(ids.shape, generator=random) < LABELLED, ids, -100),
        "next_sentence_label": torch.randint(2, (batch,), generator=random),
    }


def in_turn(runs: Mapping[str, Run], *, batch: int, steps: int, warm_up: int = 2) -> dict[str, list[float]]:
    """Seconds of each counted step of each run, a step of each in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(warm_up + steps):
        tokens = random_batch(number, batch)
        # Who goes first changes: whoever follows a small run finds warmer caches.
        names = list(runs)[number % len(runs) :] + list(runs)[: number % len(runs)]
        for name in names:
            taken_s = timed(runs[name].step, tokens)
            if number >= warm_up:
                seconds[name].append(taken_s)
    return seconds


def paired_ratio(slow_s: list[float], fast_s: list[float]) -> float:
    """Median over the pairs of how many times faster the second is."""
    return statistics.median(slow / fast for slow, fast in zip(slow_s, fast_s, strict=True))


def timed(function: Callable[..., Any], *args: Any, **named: Any) -> float:
    """Seconds a call takes."""
    t0_s = time.perf_counter()
    function(*args, **named)
    return time.perf_counter() - t0_s


def settle() -> None:
    """Gives back what a run that is over held, before the next is built."""
    gc.collect()


def verdict(value: float, goal: float | None, *, at_least: bool) -> str:
    """The last two cells of a row: the goal, and whether it is met."""
    if goal is None:
        return "| | |"
    is_met = value >= goal if at_least else value <= goal
    return f"| {'≥' if at_least else '≤'} {goal:g} | {'met' if is_met else 'missed'} |"


def add_arguments(parser: argparse.ArgumentParser, *, size: str, batch: int, steps: int) -> None:
    """The flags that all of these benchmarks have."""
    parser.add_argument("--size", choices=list(PRESETS), default=size)
    parser.add_argument("--batch", type=int, default=batch, help=f"sequences of {SEQ_LENGTH} tokens")
    parser.add_argument("--steps", type=int, default=steps, help="counted steps of each run")
    parser.add_argument("--kernel", choices=list(KERNELS), default="auto")
    parser.add_argument("--json", type=Path, help="file for the figures, besides the table")
