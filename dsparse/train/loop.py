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
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dsparse.data.loader import LoaderState, PretrainingData
from dsparse.engine.activity import mark
from dsparse.engine.world import mean_over_ranks, rank, sum_on_device, world_size
from dsparse.errors import PatternDisagreementError, UserError
from dsparse.models.heads import UNLABELLED
from dsparse.train.checkpoint import CHECKPOINTS, RunRecord, RunState
from dsparse.train.cost import EncoderCost
from dsparse.train.deepspeed_config import MergedRun
from dsparse.train.evaluate import evaluate
from dsparse.train.host import peak_device_memory_gib, peak_memory_gib
from dsparse.train.monitor import Monitor, mean_of_blocks
from dsparse.train.progress import Progress
from dsparse.train.skips import SkippedSteps, or_none
from dsparse.train.stop import StopRequest

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
    record: RunRecord
    """Of which run its checkpoints are."""
    t0_s: float
    """When this session began, on the clock of `time.perf_counter`, less the seconds of earlier sessions."""
    skips: SkippedSteps
    """Steps that were not applied."""
    stop: StopRequest = field(default_factory=StopRequest)
    """Whether the run was asked to end early."""


def train(session: Session) -> bool:
    """Trains from `state.step` to the session's last step, evaluating, logging and saving on the way.

    Returns:
        Whether the session's last step was reached; False if it was asked to stop, and has saved.
    """
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

        losses = train_step(session)

        state.step = step
        state.num_tokens += merged.global_batch_size * merged.seq_length
        state.flops += session.cost.of_step(engine)
        session.progress.step(step)
        count_skipped(session, losses)
        if _num_updates(engine) > num_updates:
            session.monitor.update(step)
        was_asked = session.stop.is_agreed() and step < last_step
        if was_asked:
            last_step = step
        if _is_due(step, run.train.log_every, last_step) or step == 1:
            log(session, losses, learning_rate, window)
        if was_asked:  # first of all, because whoever asks may not wait long
            save(session)
        if _is_due(step, run.train.eval_every, merged.steps):
            held_out(session)
            window.begin(state)
        if was_asked:
            return False
        if _is_due(step, run.checkpoint.save_every, last_step) and (step == last_step or not session.skips.in_a_row):
            save(session)
            window.begin(state)
    return True


def train_step(session: Session) -> Tensor:
    """Forward and backward over this rank's micro-batches of one step, and the optimizer's step.

    Returns:
        Total, MLM and NSP loss, means over this rank's micro-batches, [3] float32 on the engine's device. Their means
        over the ranks are the losses of the global batch.
    """
    engine = session.engine
    mark("reading a batch", step=session.state.step + 1)
    micro_batches = list(itertools.islice(session.batches, engine.gradient_accumulation_steps()))
    # One divisor for all of the step, so that the gradient does not depend on how the step is cut into batches.
    num_labelled = sum(int((batch["labels"] != UNLABELLED).sum()) for batch, _ in micro_batches)
    mark("before the first forward pass")
    sums = sum_on_device([num_labelled, session.stop.wanted])
    session.stop.share(sums[1:])
    divisor = sums[0].clamp(min=1).float() / (len(micro_batches) * world_size())
    losses = []
    for batch, _ in micro_batches:
        mark("forward")
        out = engine(**{name: tensor.to(engine.device) for name, tensor in batch.items()}, mlm_divisor=divisor)
        mark("backward")
        engine.backward(out.loss)
        mark("optimizer step")
        engine.step()
        losses.append(torch.stack([out.loss.detach(), out.mlm_loss, out.nsp_loss]).float())
    session.state.loader = micro_batches[-1][1].to_dict()
    return torch.stack(losses).mean(0)


def count_skipped(session: Session, losses: Tensor) -> None:
    """Says, and counts, a step that the engine did not apply; the same on every rank.

    Raises:
        UserError: there were too many in a row.
    """
    if session.engine.was_step_applied():
        session.skips.applied()
        return
    norm = session.engine.get_global_grad_norm()
    loss = mean_over_ranks(losses.double().tolist())[0]
    session.skips.skipped(session.state.step, loss=loss, gradient_norm=None if norm is None else float(norm))


def seed_step(seed: int, *, step: int, rank: int) -> None:
    """Seeds torch for one optimizer step on one rank: dropout becomes a function of (seed, step, rank).

    So a checkpoint carries no random state, and a resumed run draws what an uninterrupted one draws, whatever else
    (evaluation, a picture) drew in between. Ranks differ, for each to drop other units.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little"))


def held_out(session: Session) -> None:
    """Evaluates and reports.

    Raises:
        UserError: the loss is not finite; on every rank.
    """
    merged = session.merged
    mark("evaluating", step=session.state.step)
    losses = evaluate(
        session.engine,
        session.heldout,
        num_samples=merged.run.train.eval_samples,
        micro_batch_size=merged.micro_batch_size,
    )
    if not math.isfinite(losses.mlm_loss + losses.nsp_loss):
        raise UserError(
            f"Expected finite losses on held-out text. Got {losses.mlm_loss} and {losses.nsp_loss} after step "
            f"{session.state.step}: lower train.learning_rate or lengthen train.warmup_steps."
        )
    session.monitor.heldout(session.state.step, losses)
    session.progress.heldout(session.state.step, losses)


def save(session: Session) -> None:
    """Saves a checkpoint under OUTPUT/checkpoints and removes those that need not be kept. Every rank must call it.

    Raises:
        UserError: it cannot be written; on every rank, and the one before it is as it was.
    """
    state, keep = session.state, session.merged.run.checkpoint
    mark("saving", step=state.step)
    state.wall_s = mean_over_ranks([time.perf_counter() - session.t0_s])[0]
    root, tag = session.merged.output / CHECKPOINTS, f"step{state.step}"
    client_state = state.to_client_state() | session.record.to_client_state()
    try:
        session.engine.save_checkpoint(str(root), tag=tag, client_state=client_state)
    except (PatternDisagreementError, UserError):
        raise
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"Expected to be able to write the checkpoint {root / tag}. Got: {error}; the one before it, named in "
            f"{root / 'latest'}, is as it was."
        ) from error
    if keep.keep:
        session.engine.prune_checkpoints(str(root), keep=keep.keep, keep_every=keep.keep_every)


def log(session: Session, losses: Tensor, learning_rate: float, window: _Window) -> None:
    """One row of metrics: this step's losses over all ranks, None where not finite, and speed since the last row."""
    engine, state = session.engine, session.state
    loss, mlm_loss, nsp_loss = map(or_none, mean_over_ranks(losses.double().tolist()))
    seconds, num_tokens, flops = window.lap(state)
    norm = engine.get_global_grad_norm()
    patterns = getattr(engine, "patterns", {})
    row = {
        "loss": loss,
        "mlm_loss": mlm_loss,
        "nsp_loss": nsp_loss,
        "learning_rate": learning_rate,
        "gradient_norm": None if norm is None else or_none(float(norm)),
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
