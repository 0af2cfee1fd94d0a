"""Pictures of patterns: a pixel or more per block, dark where blocks are active.

Shape legend: R block rows, C block columns, P and Q pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

MAX_SIDE_PX = 512
MIN_SIDE_PX = 128


def picture_of_blocks(blocks_RC: Tensor) -> NDArray[np.uint8]:
    """[1, P, Q] uint8, 255 for no block and 0 for an active one.

    A grid of more than `MAX_SIDE_PX` blocks a side is averaged down to grey, its proportions kept; one of few blocks is
    drawn with larger squares.

    Args:
        blocks_RC: [R, C] bool.
    """
    grey_RC = 1.0 - blocks_RC.to("cpu", torch.float32)
    longest = max(grey_RC.shape)
    if longest > MAX_SIDE_PX:
        num_rows, num_cols = (max(1, round(side * MAX_SIDE_PX / longest)) for side in grey_RC.shape)
        grey_PQ = F.adaptive_avg_pool2d(grey_RC[None], (num_rows, num_cols))[0]
    else:
        scale = max(1, -(-MIN_SIDE_PX // longest))
        grey_PQ = grey_RC.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    return np.asarray((grey_PQ * 255).round().to(torch.uint8)[None].numpy())
