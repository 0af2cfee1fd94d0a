"""Losses on held-out text, the same whatever the number of ranks.

Sample j of the held-out split is built and masked as a function of j alone, so every evaluation sees the same
questions. Sums and counts are reduced, never means, and a rank without samples in a round still runs the model, because
ZeRO-3 gathers weights on all ranks together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dsparse.data.loader import PretrainingData, to_tensors
from dsparse.engine.activity import mark
from dsparse.engine.world import rank, sum_over_ranks, world_size


@dataclass(kw_only=True, frozen=True)
class HeldOutLosses:
    """Means over the held-out samples seen."""

    mlm_loss: float
    """Masked words, nats per labelled token."""
    nsp_loss: float
    """Next sentence, nats per sequence."""
    mlm_accuracy: float
    """Share of the labelled tokens whose most probable token is right."""
    nsp_accuracy: float
    """Share of the sequences whose guess is right."""
    num_samples: int
    """Sequences over all ranks."""


@torch.no_grad()
def evaluate(engine: Any, data: PretrainingData, *, num_samples: int, micro_batch_size: int) -> HeldOutLosses:
    """Evaluates the engine's model on the first samples of a split. Every rank must call it.

    Args:
        engine: a SparseEngine or DeepSpeedEngine around a BERT of ours; its mode is left as training.
        data: the held-out split.
        num_samples: sequences over all ranks; at most as many as the split has are used.
        micro_batch_size: sequences per forward pass on one rank.
    """
    num_samples = min(num_samples, data.num_samples_per_epoch)
    num_rounds = -(-num_samples // (world_size() * micro_batch_size))
    sums = torch.zeros(6, dtype=torch.float64)
    engine.eval()
    for one_round in range(num_rounds):
        mark("evaluating")
        first = (one_round * world_size() + rank()) * micro_batch_size
        mine = range(first, min(first + micro_batch_size, num_samples))
        batch = to_tensors(data.batch(np.asarray(mine or (0,), dtype=np.int64)))
        out = engine(**{name: tensor.to(engine.device) for name, tensor in batch.items()})
        if mine:
            counts = (out.mlm_loss_sum, out.num_labelled, out.num_mlm_correct, out.num_nsp_correct)
            sums[:4] += torch.stack([count.double() for count in counts]).cpu()
            sums[4] += float(out.nsp_loss) * len(mine)
            sums[5] += len(mine)
    engine.train()
    mlm_sum, num_labelled, mlm_correct, nsp_correct, nsp_sum, num_seen = sum_over_ranks(sums.tolist())
    return HeldOutLosses(
        mlm_loss=mlm_sum / max(num_labelled, 1.0),
        nsp_loss=nsp_sum / num_seen,
        mlm_accuracy=mlm_correct / max(num_labelled, 1.0),
        nsp_accuracy=nsp_correct / num_seen,
        num_samples=int(num_seen),
    )
