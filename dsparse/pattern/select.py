"""Choosing the k smallest of many, exactly: by the unique key (score, block number), whatever the device.

`torch.topk` and unstable sorts break ties as they like, differently on CPU and GPU. A selection here is a threshold
(the k-th smallest score, a value no algorithm can disagree about) plus a rule for the scores equal to it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_SAMPLE = 1 << 14
"""Scores looked at to guess where the largest begin."""


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
    tied = _nonzero(scores_N == threshold)
    num_from_ties = k - int(torch.count_nonzero(chosen_N))
    if num_from_ties < tied.numel():
        tied = tied[block_numbers_N[tied].argsort()[:num_from_ties]]
    chosen_N[tied] = True
    return _nonzero(chosen_N)


def select_largest(scores_N: Tensor, is_candidate_N: Tensor, k: int) -> Tensor:
    """Block numbers of the k candidates with the largest scores; equal scores go to the lower block number.

    Args:
        scores_N: int64 or floating point, by block number; only those of candidates are read, and none is NaN.
        is_candidate_N: bool.
        k: 0 <= k <= number of candidates.

    Returns:
        int64 [k], ascending.
    """
    near = _candidates_near_the_top(scores_N, is_candidate_N, k)
    # The highest score is the lowest of its order-reversing image: ~x for integers (exact at both ends), -x for floats.
    scores = scores_N[near]
    return near[select_smallest(-scores if scores.is_floating_point() else ~scores, near, k)]


def _candidates_near_the_top(scores_N: Tensor, is_candidate_N: Tensor, k: int) -> Tensor:
    """Ascending numbers of candidates, the k with the largest scores and everything tied with them included.

    Few of many are wanted as a rule, and a look at some scores says where they begin. A wrong guess costs time only.
    """
    stride = scores_N.numel() // _SAMPLE
    if stride >= 2:
        is_candidate = is_candidate_N[::stride]
        sample = scores_N[::stride][is_candidate]
        expected = k / scores_N.numel() * is_candidate.numel()
        rank = int(expected + 4 * math.sqrt(expected) + 4)  # four standard deviations further down
        if rank <= sample.numel():
            near = _nonzero((scores_N >= sample.topk(rank).values[-1]).logical_and_(is_candidate_N))
            if near.numel() >= k:
                return near
    return _nonzero(is_candidate_N)


def _nonzero(is_chosen_N: Tensor) -> Tensor:
    """int64, ascending positions of what is true."""
    if is_chosen_N.device.type == "cpu":  # numpy's takes a seventh of the time
        return torch.from_numpy(np.flatnonzero(is_chosen_N.numpy()))
    return is_chosen_N.nonzero().flatten()
