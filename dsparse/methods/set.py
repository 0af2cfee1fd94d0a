"""Sparse evolutionary training: drop the smallest magnitudes, grow uniformly at random.

Mocanu et al. 2018, https://arxiv.org/abs/1707.04780; with blocks and for BERT, arXiv 2108.06277 (DynSparse).
"""

from __future__ import annotations

from torch import Tensor

from dsparse.methods.base import Method, UpdateContext
from dsparse.pattern.block_pattern import BlockPattern
from dsparse.pattern.draw import all_block_numbers, draw_blocks, stream_key


def random_grow_score(pattern: BlockPattern, context: UpdateContext) -> Tensor:
    """int64 [N], highest for the smallest draw of (seed, name, update, block number)."""
    numbers_N = all_block_numbers(pattern.num_blocks, pattern.rows.device)
    return draw_blocks(stream_key(context.seed, context.name, context.update), numbers_N).bitwise_not_()


SET = Method(name="set", grow_score=random_grow_score)
