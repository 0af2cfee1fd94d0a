"""`dsparse estimate`: what a run would read and compute, from its configuration and its store, without starting it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsparse.errors import UserError

if TYPE_CHECKING:
    from dsparse.data.loader import PretrainingData
    from dsparse.train.deepspeed_config import MergedRun


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A run in numbers."""

    run: MergedRun
    num_ranks: int
    num_documents: int
    """Of the training split, as the next two."""
    num_tokens: int
    num_samples: int
    """Samples in an epoch."""
    dense_flops: float
    """Of the encoder over the whole run, as the paper counts them (`dsparse.flops`)."""
    sparse_flops: float | None
    """The same at the densities of the run's patterns; None for a dense run."""

    @property
    def num_run_samples(self) -> int:
        """Samples of the whole run."""
        return self.run.steps * self.run.global_batch_size

    @property
    def num_epochs(self) -> float:
        """How often the run sees each sample."""
        return self.num_run_samples / self.num_samples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags beside those of launch/pretrain.py, which `main` passes on."""
    parser.add_argument("--ranks", default="1", metavar="N", help="ranks of the run (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Prints the estimate for `arguments.rest`, the words that would follow launch/pretrain.py."""
    if not (arguments.ranks.isdecimal() and int(arguments.ranks) > 0):
        raise UserError(f"Expected --ranks to be a whole number of at least 1. Got {arguments.ranks!r}.")
    print(as_text(estimate(arguments.rest, num_ranks=int(arguments.ranks))))
    return 0


def estimate(argv: Sequence[str], *, num_ranks: int = 1) -> Estimate:
    """Looks at a run without a process group and without writing.

    Args:
        argv: as for launch/pretrain.py.
        num_ranks: at least 1; micro-batch and accumulation follow from it.

    Raises:
        UserError: the run could not be started with these words, or there is no such store.
    """
    from dsparse.data.loader import PretrainingData
    from dsparse.train.command_line import parse_command_line
    from dsparse.train.pretrain import load_run

    merged = load_run(parse_command_line(argv).run, world_size=num_ranks)
    data = PretrainingData(merged.run.data.store, seq_length=merged.seq_length)
    data.require_batch(merged.global_batch_size)
    dense, sparse = _flops_of_step(merged, data)
    counts = data.manifest.splits["train"]
    return Estimate(
        run=merged,
        num_ranks=num_ranks,
        num_documents=counts.num_documents,
        num_tokens=counts.num_tokens,
        num_samples=data.num_samples_per_epoch,
        dense_flops=merged.steps * dense,
        sparse_flops=None if sparse is None else merged.steps * sparse,
    )


def as_text(found: Estimate) -> str:
    """A few aligned lines."""
    run = found.run
    step_tokens = run.global_batch_size * run.seq_length
    lines = {
        "store": f"{found.num_tokens:,} training tokens in {found.num_documents:,} documents, {run.run.data.store}",
        "epoch": f"{found.num_samples:,} samples of {run.seq_length} tokens",
        "step": f"{run.global_batch_size:,} samples, {step_tokens:,} tokens ({found.num_ranks} ranks x "
        f"{run.micro_batch_size} x {run.gradient_accumulation_steps} accumulated)",
        "run": f"{run.steps:,} steps, {found.num_run_samples:,} samples, {run.steps * step_tokens:,} tokens with "
        f"padding, {found.num_epochs:.4g} epochs",
        "dense": f"{found.dense_flops:.4g} FLOPs in the encoder of bert-{run.run.model.preset}",
    }
    if found.sparse_flops is not None:
        ratio = found.dense_flops / found.sparse_flops
        lines["sparse"] = f"{found.sparse_flops:.4g} FLOPs in the encoder, {ratio:.2f} times fewer"
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {line}" for name, line in lines.items())


def _flops_of_step(merged: MergedRun, data: PretrainingData) -> tuple[float, float | None]:
    """Encoder FLOPs of an optimizer step over all ranks, dense and at the run's densities."""
    import torch

    from dsparse.engine.initialize import check_sparse_run, shape_of
    from dsparse.models.bert import BertForLabelledPreTraining, bert_config
    from dsparse.models.selection import select_weights
    from dsparse.pattern.budget import block_budget
    from dsparse.train.cost import EncoderCost

    preset = merged.run.model.preset
    config = bert_config(
        preset,
        vocab_size=data.vocab_size,
        max_seq_length=merged.run.model.max_seq_length,
        dropout=0.0,
        pad_token_id=data.pad_token_id,
    )
    with torch.device("meta"):  # shapes and names, no weights
        model = BertForLabelledPreTraining(config)
    cost = EncoderCost.of_bert(model, preset, seq_length=merged.seq_length, num_sequences=merged.global_batch_size)
    if "dynamic_sparsity" not in merged.deepspeed:
        return cost.of_densities({}), None
    sparsity = check_sparse_run(merged.deepspeed, model)
    weights = select_weights(model, modules=sparsity.modules, exclude=sparsity.exclude)
    shapes = {name: shape_of(weight) for name, weight in weights.items()}
    block = sparsity.block_size
    counts = block_budget(shapes, block=block, distribution=sparsity.distribution, density=sparsity.density)
    densities = {name: counts[name] * block**2 / (rows * cols) for name, (rows, cols) in shapes.items()}
    return cost.of_densities({}), cost.of_densities(densities)
