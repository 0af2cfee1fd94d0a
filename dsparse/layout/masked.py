"""The masked layout: an ordinary dense parameter, zero outside its pattern.

It works with any model, block size and ZeRO stage at dense cost, and is the reference for every other layout. The mask
acts on gradients as autograd produces them, before anything accumulates, reduces, clips or reads them: whatever comes
after sees a model that has only its active weights.

Shape legend: O out features, I in features, S slots, n elements of a fragment, N elements of the weight.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dsparse.methods.scores import Norm, partial_block_scores
from dsparse.pattern.block_pattern import BlockPattern, expand_blocks
from dsparse.pattern.edit import PatternEdit


class MaskedWeight:
    """A parameter whose gradient is zero outside a pattern: a `WeightLayout`."""

    def __init__(self, parameter: nn.Parameter, pattern: BlockPattern) -> None:
        self._inactive_OI = ~pattern.mask()
        self._hook = parameter.register_hook(self._mask_gradient)

    def set_pattern(self, pattern: BlockPattern) -> None:
        """Puts another pattern in force from the next backward on."""
        self._inactive_OI.copy_(~pattern.mask())

    def holds(self, pattern: BlockPattern) -> bool:
        """Whether the mask in force is exactly the pattern's."""
        return torch.equal(self._inactive_OI, ~pattern.mask().to(self._inactive_OI.device))

    def partial_scores(self, fragment_n: Tensor, start: int, pattern: BlockPattern, norm: Norm) -> Tensor:
        """int64 [S], norms of the active blocks from elements `start` … of the weight (fp32 [n])."""
        return partial_block_scores(fragment_n, start, pattern, norm)

    def touched(self, pattern: BlockPattern, edit: PatternEdit) -> Tensor:
        """bool [N], the dropped and the grown blocks."""
        return expand_blocks(edit.touched_mask(pattern), pattern.block).flatten()

    def stale(self, before: BlockPattern, after: BlockPattern) -> Tensor:
        """bool [N], where optimizer state kept from one pattern has no place in another: outside of that."""
        return ~after.mask().flatten()

    @property
    def inactive(self) -> Tensor | None:
        """bool [O, I], true outside the pattern. Read only."""
        return self._inactive_OI

    def release(self) -> None:
        """Takes the mask off the parameter's gradient."""
        self._hook.remove()

    def _mask_gradient(self, gradient_OI: Tensor) -> Tensor:
        if self._inactive_OI.device != gradient_OI.device:
            self._inactive_OI = self._inactive_OI.to(gradient_OI.device)
        # A choice, not a product: 0 · inf would be NaN, and an overflow at a place that does not exist is no overflow.
        # On CPU `where` takes two thirds of the time of `masked_fill`.
        return torch.where(self._inactive_OI, 0, gradient_OI)


@torch.no_grad()
def zero_outside(weight_OI: Tensor, pattern: BlockPattern) -> None:
    """Sets a dense weight to exactly 0 outside the pattern, in place."""
    weight_OI.masked_fill_(~pattern.mask().to(weight_OI.device), 0)
