"""Where the time of a training step goes, by kind of operation: torch's profiler, summed up."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.training import VOCAB_SIZE, BareRun, random_batch

CLIPPING, OPTIMIZER = "clipping", "optimizer"
_RANGES = (CLIPPING, OPTIMIZER)

# By the first of these that an operation's name contains.
_BY_NAME = {
    "block_linear": "sparse products",
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
REST, WHOLE = "Python, and what no operation counts", "whole step, profiled"


def time_by_kind(run: BareRun, batch: int, steps: int) -> dict[str, float]:
    """Milliseconds of a step by kind of operation, dearest first; the rest is what is missing to the whole.

    The whole is that of the profiled steps, so a little more than of others.
    """
    batches = [random_batch(number, batch) for number in range(steps + 2)]
    for tokens in batches[:2]:
        run.step(tokens)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        t0_s = time.perf_counter()
        for tokens in batches[2:]:
            run.forward(tokens).backward()
            with record_function(CLIPPING):
                run.clip()
            with record_function(OPTIMIZER):
                run.update()
        whole_ms = 1e3 * (time.perf_counter() - t0_s) / steps
    total_ms: dict[str, float] = defaultdict(float)
    for event in profiler.events():
        total_ms[_kind(event)] += event.self_cpu_time_total / 1e3 / steps
    found = dict(sorted(total_ms.items(), key=lambda item: -item[1]))
    return {**found, REST: whole_ms - sum(found.values()), WHOLE: whole_ms}


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
