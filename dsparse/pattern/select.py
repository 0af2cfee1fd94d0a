"""Choosing the k smallest of many, exactly: by the unique key (score, block number), whatever the device.

`torch.topk` and unstable sorts break ties as they like, differently on CPU and GPU. A selection here is a threshold
(the k-th smallest score, a value no algorithm can disagree about) plus a rule for the scores equal to it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def select_smallest(scores_N: Tensor, block_numbers_N: Tensor, k: int) -> Tensor:
    """Positions of the k smallest scores; equal scores go to the lower block number.

    Args:
        scores_N: int64 or floating point without NaN.
        block_numbers_N: int64, all different.
        k: 0 <= k <= N.

    Returns:
        int64 [k], positions into `scores_N`, ascending.
    """
    num_scores = scores_N.numel()
    if not 0 <= k <= num_scores:
        raise ValueError(f"Expected 0 <= k <= {num_scores}. Got k = {k}.")
    if k == 0:
        return torch.empty(0, dtype=torch.int64, device=scores_N.device)
    threshold = torch.kthvalue(scores_N, k).values
    chosen_N = scores_N < threshold
    tied = (scores_N == threshold).nonzero().flatten()
    num_from_ties = k - int(chosen_N.sum())
    if num_from_ties < tied.numel():
        tied = tied[block_numbers_N[tied].argsort()[:num_from_ties]]
    chosen_N[tied] = True
    return chosen_N.nonzero().flatten()
