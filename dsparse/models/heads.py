"""The two pre-training tasks of BERT, masked words and next sentence, as sums and means over what is labelled.

About 15 % of the positions of a masked-language-model batch carry a label; the others have no loss and send no
gradient into the vocabulary head. In a small model that head is most of the arithmetic, so the hidden states of the
labelled positions are picked out first and the head sees only those. The loss is the same function of the weights,
computed by fewer rows.

Losses are computed in fp32 whatever the model's dtype (fp64 stays fp64): a sum over a vocabulary does not fit the
eight bits of a bf16 mantissa.

Shapes: B = sequences, T = tokens per sequence, N = labelled positions of the batch, V = vocabulary, H = hidden.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

UNLABELLED = -100
"""The label of a position without a loss, as in torch and transformers."""


class BertPreTrainingLosses(NamedTuple):
    """What a forward pass of BERT pre-training returns.

    A plain tuple of tensors, because the hooks of ZeRO-3 look for tensors inside tuples. Only `loss` carries a
    gradient; the rest is for logs and for evaluation. Means of means over batches with different numbers of labels
    are not means: for an exact held-out loss add up `mlm_loss_sum` and `num_labelled`, and divide once.
    """

    loss: Tensor
    """[] fp32, `mlm_loss + nsp_loss`: call `backward` on this."""
    mlm_loss: Tensor
    """[] fp32, sum over the labelled positions by the divisor, in nats: their mean, unless another divisor is given."""
    nsp_loss: Tensor
    """[] fp32, mean over the sequences, in nats."""
    num_labelled: Tensor
    """[] int64, labelled positions in the batch."""
    mlm_loss_sum: Tensor
    """[] fp32, sum over the labelled positions, in nats."""
    num_mlm_correct: Tensor | None
    """[] int64, labelled positions whose most probable token is the label; None in training mode."""
    num_nsp_correct: Tensor | None
    """[] int64, sequences whose next-sentence guess is right; None in training mode."""


def labelled_positions(labels_BT: Tensor) -> Tensor:
    """Positions that carry a label, [N] int64 into the flattened [B * T] batch, in ascending order.

    N is a fact of the data, so on a GPU this waits for the device. Call it before the work of a forward pass is
    queued, not after.
    """
    return labels_BT.flatten().ne(UNLABELLED).nonzero().squeeze(1)


def summed_cross_entropy(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Sum of the cross-entropies, [] of fp32 or wider, in nats; 0 with a zero gradient where N is 0."""
    wide_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    return F.cross_entropy(wide_NV, labels_N, reduction="sum")


def num_correct(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """How many rows have their largest logit at the label, [] int64."""
    return logits_NV.argmax(dim=-1).eq(labels_N).sum()
