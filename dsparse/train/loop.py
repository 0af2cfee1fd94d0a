"""The training loop, which is the paper's algorithm (arXiv 2108.06277, section 2).

    for each optimizer step:
        forward and backward over the micro-batches       gradients outside the pattern are dropped as they appear
        optimizer step, by DeepSpeed                      the pattern's weights alone change
        every T/n steps: drop the smallest blocks,        the engine does it inside engine.step()
        grow as many at random

Around it: evaluation on held-out text, metrics, checkpoints.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dsparse.data.loader import LoaderState, PretrainingData
from dsparse.engine.world import mean_over_ranks, rank
from dsparse.errors import UserError
from dsparse.train.checkpoint import CHECKPOINTS, RunState
from dsparse.train.cost import EncoderCost
from dsparse.train.deepspeed_config import MergedRun
from dsparse.train.evaluate import evaluate
from dsparse.train.host import peak_device_memory_gib, peak_memory_gib
from dsparse.train.monitor import Monitor, mean_of_blocks
from dsparse.train.progress import Progress

Batches = Iterator[tuple[dict[str, Tensor], LoaderState]]


@dataclass(kw_only=True)
class Session:
    """Everything the loop needs, made by `pretrain`."""

    merged: MergedRun
    engine: Any
    """A SparseEngine, or DeepSpeed's own for a dense run."""
    batches: Batches
    """Micro-batches of this rank, from `state.loader` on."""
    heldout: PretrainingData
    cost: EncoderCost
    state: RunState
    monitor: Monitor
    progress: Progress
    t0_s: float
    """When this session began, on the clock of `time.perf_counter`, less the seconds of earlier sessions."""


def train(session: Session) -> None:
    """Trains from `state.step` to the session's last step, evaluating, logging and saving on the way."""
    merged, engine, state = session.merged, session.engine, session.state
    run, last_step = merged.run, merged.last_step
    window = _Window()
    if state.step == 0:
        held_out(session)
        session.monitor.pictures(0)
    window.begin(state)
    for step in range(state.step + 1, last_step + 1):
        num_updates, learning_rate = _num_updates(engine), engine.get_lr()[0]
        seed_step(run.train.seed, step=step, rank=rank())

        losses = [train_micro_batch(session) for _ in range(engine.gradient_accumulation_steps())]

        state.step = step
        state.num_tokens += merged.global_batch_size * merged.seq_length
        state.flops += session.cost.of_step(engine)
        session.progress.step(step)
        if _num_updates(engine) > num_updates:
            session.monitor.update(step)
        if _is_due(step, run.train.log_every, merged.steps) or step == 1:
            log(session, losses, learning_rate, window)
        if _is_due(step, run.train.eval_every, last_step):
            held_out(session)
            window.begin(state)
        if _is_due(step, run.checkpoint.save_every, last_step):
            save(session)
            window.begin(state)


def train_micro_batch(session: Session) -> Tensor:
    """Forward, backward, and the optimizer's step if this micro-batch is the last of one.

    Returns:
        Total, MLM and NSP loss of this rank's micro-batch, [3] float32 on the engine's device.
    """
    engine = session.engine
    batch, position = next(session.batches)
    out = engine(**{name: tensor.to(engine.device) for name, tensor in batch.items()})
    engine.backward(out.loss)
    engine.step()
    session.state.loader = position.to_dict()
    return torch.stack([out.loss.detach(), out.mlm_loss, out.nsp_loss]).float()


def seed_step(seed: int, *, step: int, rank: int) -> None:
    """Seeds torch for one optimizer step on one rank: dropout becomes a function of (seed, step, rank).

    So a checkpoint carries no random state, and a resumed run draws what an uninterrupted one draws, whatever else
    (evaluation, a picture) drew in between. Ranks differ, for each to drop other units.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little"))


def held_out(session: Session) -> None:
    """Evaluates and reports."""
    merged = session.merged
    losses = evaluate(
        session.engine,
        session.heldout,
        num_samples=merged.run.train.eval_samples,
        micro_batch_size=merged.micro_batch_size,
    )
    session.monitor.heldout(session.state.step, losses)
    session.progress.heldout(session.state.step, losses)


def save(session: Session) -> None:
    """Saves a checkpoint under OUTPUT/checkpoints. Every rank must call it."""
    state = session.state
    state.wall_s = time.perf_counter() - session.t0_s
    folder = session.merged.output / CHECKPOINTS
    session.engine.save_checkpoint(str(folder), tag=f"step{state.step}", client_state=state.to_client_state())


def log(session: Session, losses: list[Tensor], learning_rate: float, window: _Window) -> None:
    """One row of metrics: this step's losses over all micro-batches and ranks, and speed since the last row.

    Raises:
        UserError: the loss is not finite; on every rank.
    """
    engine, state = session.engine, session.state
    loss, mlm_loss, nsp_loss = mean_over_ranks(torch.stack(losses).double().mean(0).tolist())
    if not math.isfinite(loss):
        raise UserError(
            f"Expected a finite loss. Got {loss} at step {state.step} with learning rate {learning_rate:.3g}: "
            "lower train.learning_rate or lengthen train.warmup_steps."
        )
    seconds, num_tokens, flops = window.lap(state)
    norm = engine.get_global_grad_norm()
    patterns = getattr(engine, "patterns", {})
    row = {
        "loss": loss,
        "mlm_loss": mlm_loss,
        "nsp_loss": nsp_loss,
        "learning_rate": learning_rate,
        "gradient_norm": None if norm is None else float(norm),
        "tokens_per_s": num_tokens / seconds,
        "flops_per_s": flops / seconds,
        "num_tokens": state.num_tokens,
        "flops": state.flops,
        "wall_s": time.perf_counter() - session.t0_s,
        "peak_memory_gib": peak_memory_gib(),
        "peak_device_memory_gib": peak_device_memory_gib(),
        "sparsity": mean_of_blocks(engine, {name: 1 - pattern.density for name, pattern in patterns.items()}),
        "dof_covered": mean_of_blocks(engine, getattr(engine, "coverage", {})),
        "num_updates": _num_updates(engine),
    }
    session.monitor.train(state.step, row)
    session.progress.train(state.step, row)


class _Window:
    """Seconds, tokens and FLOPs since the last row of metrics, evaluations and saves left out."""

    _t0_s: float
    _num_tokens: int
    _flops: float

    def begin(self, state: RunState) -> None:
        self._t0_s, self._num_tokens, self._flops = time.perf_counter(), state.num_tokens, state.flops

    def lap(self, state: RunState) -> tuple[float, int, float]:
        lap = time.perf_counter() - self._t0_s, state.num_tokens - self._num_tokens, state.flops - self._flops
        self.begin(state)
        return lap


def _num_updates(engine: Any) -> int:
    return int(getattr(engine, "num_pattern_updates", 0))


def _is_due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)
