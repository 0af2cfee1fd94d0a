"""Where the time of a training step goes, by kind of operation: torch's profiler, summed up."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.training import VOCAB_SIZE, BareRun, random_batch, timed

CLIPPING, OPTIMIZER = "clipping", "optimizer"
_RANGES = (CLIPPING, OPTIMIZER)

# By the first of these that an operation's name contains.
_BY_NAME = {
    "dsparse": "sparse products",
    "scaled_dot_product": "attention",
    "flash": "attention",
    "layer_norm": "layer norm",
    "gelu": "GELU",
    "embedding": "embeddings",
    "softmax": "vocabulary head",
    "nll_loss": "vocabulary head",
    "mm": "dense products",
    "linear": "dense products",
    "add": "additions",
    "copy": "copies",
    "clone": "copies",
    "zero": "filling with 0",
    "fill": "filling with 0",
}
REST = "Python, autograd and what no operation counts"


def time_by_kind(run: BareRun, batch: int, steps: int) -> dict[str, float]:
    """Milliseconds of a step by kind of operation, dearest first; the rest is what is missing to the whole."""
    whole_ms = 1e3 * statistics.median(timed(run.step, random_batch(number, batch)) for number in range(steps + 1))
    batches = [random_batch(number, batch) for number in range(steps)]
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        for tokens in batches:
            run.forward(tokens).backward()
            with record_function(CLIPPING):
                run.clip()
            with record_function(OPTIMIZER):
                run.update()
    total_ms: dict[str, float] = defaultdict(float)
    for event in profiler.events():
        total_ms[_kind(event)] += event.self_cpu_time_total / 1e3 / steps
    found = dict(sorted(total_ms.items(), key=lambda item: -item[1]))
    # The profiler's own cost is in what it measures: with it the parts can sum up to a little more than the whole.
    return {**found, REST: max(0.0, whole_ms - sum(found.values())), "whole step": whole_ms}


def _kind(event: Any) -> str:
    names = list(_names(event))
    for name in names:
        if name in _RANGES:
            return name
    if any(VOCAB_SIZE in shape for shape in event.input_shapes if shape) and "embedding" not in names[0]:
        return "vocabulary head"
    # An operation inside another one is part of it: what the reference kernel calls, say.
    for name in reversed(names):
        for part, kind in _BY_NAME.items():
            if part in name:
                return kind
    return "other"


def _names(event: Any) -> Iterator[str]:
    """Its own, and those of all that it is inside of."""
    while event is not None:
        yield event.name
        event = event.cpu_parent
