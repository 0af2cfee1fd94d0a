"""Masked and packed are two ways to hold one weight: whatever the engine asks, they answer alike.

The engine's part is played by plain tensors: a master and two moments, flat and laid out like the stored parameter,
zeroed where the layout says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dsparse.layout.base import WeightLayout
from dsparse.layout.convert import PackedWeight
from dsparse.layout.masked import MaskedWeight, zero_outside
from dsparse.layout.packed import PackedLinear, pack, unpack
from dsparse.methods.scores import Norm, reduction_of
from dsparse.pattern.block_pattern import BlockPattern
from dsparse.pattern.edit import PatternEdit, apply_edit, drop_and_grow
from tests.pattern.reference import pattern_of, patterns

NORMS: list[Norm] = ["l1", "l2", "linf"]
KEYS = ("master", "exp_avg", "exp_avg_sq")


@dataclass
class Held:
    """A weight and its optimizer's state in one layout."""

    layout: WeightLayout
    parameter: nn.Parameter
    pattern: BlockPattern
    state: dict[str, Tensor] = field(default_factory=dict)

    def dense(self, flat: Tensor) -> Tensor:
        """[O, I] of something laid out like the stored parameter."""
        if self.parameter.shape == self.pattern.shape:
            return flat.view(self.pattern.shape)
        values = flat.view(-1, self.pattern.block, self.pattern.block)
        return unpack(values, self.pattern.rows, self.pattern.cols, self.pattern.shape)

    def stored(self, dense: Tensor) -> Tensor:
        """Flat, as the parameter is stored, of something that is dense."""
        return (dense if self.parameter.shape == self.pattern.shape else pack(dense, self.pattern)).flatten()

    def scores(self, norm: Norm, num_ranks: int) -> Tensor:
        """As ranks have them that share the stored parameter evenly."""
        parts = self.state["master"].split(-(-self.parameter.numel() // num_ranks))
        starts = [sum(part.numel() for part in parts[:i]) for i in range(len(parts))]
        scores = torch.stack(
            [self.layout.partial_scores(part, a, self.pattern, norm) for part, a in zip(parts, starts, strict=True)]
        )
        return scores.amax(0) if reduction_of(norm, self.pattern.block) == "max" else scores.sum(0)

    def step(self, gradient: Tensor) -> None:
        """AdamW, element by element, on what the layout lets through of a dense gradient."""
        flat = self.stored(torch.where(self.pattern.mask(), gradient, 0))
        master, first, second = (self.state[key] for key in KEYS)
        first.mul_(0.9).add_(flat, alpha=0.1)
        second.mul_(0.99).addcmul_(flat, flat, value=0.01)
        master.mul_(0.999).addcdiv_(first, second.sqrt().add_(1e-6), value=-0.01)

    def edit(self, edit: PatternEdit) -> None:
        touched = self.layout.touched(self.pattern, edit)
        for tensor in self.state.values():
            tensor.masked_fill_(touched, 0)
        self.pattern = apply_edit(self.pattern, edit)
        self.layout.set_pattern(self.pattern)

    def everything(self) -> list[Tensor]:
        return [self.dense(tensor) for tensor in self.state.values()]


def both(pattern: BlockPattern, seed: int = 0) -> tuple[Held, Held]:
    """The same weight, masked and packed."""
    torch.manual_seed(seed)
    linear = nn.Linear(pattern.shape[1], pattern.shape[0], bias=False)
    zero_outside(linear.weight, pattern)
    dense = linear.weight.detach().clone()
    masked = Held(MaskedWeight(linear.weight, pattern), linear.weight, pattern)
    other = nn.Linear(pattern.shape[1], pattern.shape[0], bias=False)
    other.weight.data.copy_(dense)
    layer = PackedLinear.from_linear(other, pattern, kernel="reference")
    packed = Held(PackedWeight([layer]), layer.weight, pattern)
    for held in (masked, packed):
        held.state = {"master": held.stored(dense).clone()}
        held.state |= {key: torch.zeros_like(held.state["master"]) for key in KEYS[1:]}
    return masked, packed


def random_edit(pattern: BlockPattern, seed: int, num_moved: int, *, regrow_dropped: bool = False) -> PatternEdit:
    generator = torch.Generator().manual_seed(seed)
    drop = torch.randint(0, 4, (pattern.num_active,), generator=generator)
    grow = torch.randint(0, 4, (pattern.num_blocks,), generator=generator)
    return drop_and_grow(pattern, drop, grow, num_moved, regrow_dropped=regrow_dropped)


@given(patterns(max_side=4), st.sampled_from(NORMS), st.integers(1, 4), st.integers(0, 2**31))
def test_scores(pattern: BlockPattern, norm: Norm, num_ranks: int, seed: int) -> None:
    """Ranks cut the two at different places, and still the scores are the same bits."""
    masked, packed = both(pattern, seed)
    assert torch.equal(masked.scores(norm, num_ranks), packed.scores(norm, num_ranks))


@given(patterns(max_side=4), st.integers(0, 2**31), st.booleans(), st.data())
def test_touched(pattern: BlockPattern, seed: int, regrow_dropped: bool, data: st.DataObject) -> None:
    """The same becomes zero; that the masked layout names grown blocks too changes nothing, they are zero."""
    edit = random_edit(pattern, seed, data.draw(st.integers(0, pattern.num_active)), regrow_dropped=regrow_dropped)
    masked, packed = both(pattern, seed)
    of_masked = masked.layout.touched(pattern, edit).view(pattern.shape)
    of_packed = packed.dense(packed.layout.touched(pattern, edit))
    assert torch.equal(of_masked & pattern.mask(), of_packed)
    assert not (masked.state["master"].view(pattern.shape)[of_masked & ~pattern.mask()]).any()
    assert of_packed.sum() == edit.num_moved * pattern.block**2
    # After the edit: what a slot holds is where its new block is, and all of that is zero.
    after = apply_edit(pattern, edit)
    touched = packed.layout.touched(pattern, edit).view(-1, pattern.block, pattern.block)
    grown = unpack(touched, after.rows, after.cols, after.shape)
    assert torch.equal(of_masked & after.mask(), grown)


@given(patterns(max_side=4), st.data())
def test_stale(before: BlockPattern, data: st.DataObject) -> None:
    """What is kept is kept at the same block by both, or by the masked layout alone where a block changed slots."""
    numbers = data.draw(st.permutations(range(before.num_blocks)))[: before.num_active]
    after = pattern_of(numbers, before.shape, before.block)
    masked, packed = both(before)
    kept_masked = ~masked.layout.stale(before, after).view(before.shape)
    kept_packed = ~packed.layout.stale(before, after).view(-1, before.block, before.block)
    assert torch.equal(kept_masked, after.mask())
    here = unpack(kept_packed, after.rows, after.cols, after.shape)
    there = unpack(kept_packed, before.rows, before.cols, before.shape)
    assert torch.equal(here, there)
    assert not (here & ~kept_masked).any()
    same_slots = [a == b for a, b in zip(before.block_numbers().tolist(), numbers, strict=True)]
    assert here.sum() == sum(same_slots) * before.block**2


@given(patterns(max_side=4), st.integers(0, 2**31), st.data())
def test_stale_along_edits(before: BlockPattern, seed: int, data: st.DataObject) -> None:
    """Edits keep the slots of blocks that stay, so both keep the same state: that of blocks active before and after."""
    edit = random_edit(before, seed, data.draw(st.integers(0, before.num_active)))
    after = apply_edit(before, edit)
    masked, packed = both(before)
    moments = torch.where(before.mask(), 1.0, 0.0)
    for held in (masked, packed):
        held.state["exp_avg"].copy_(held.stored(moments))
        held.state["exp_avg"].masked_fill_(held.layout.stale(before, after), 0)
        held.pattern = after
    kept = before.mask() & after.mask()
    assert torch.equal(masked.dense(masked.state["exp_avg"]), kept.float())
    assert torch.equal(packed.dense(packed.state["exp_avg"]), kept.float())


@pytest.mark.parametrize("regrow_dropped", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("block", "density"), [(1, 0.3), (2, 0.5), (4, 0.8), (8, 0.1)])
def test_twenty_updates(block: int, density: float, norm: Norm, regrow_dropped: bool) -> None:
    """Steps and drop-and-grow in turn: patterns, weights and moments stay the same bits."""
    pattern = BlockPattern.random((8 * block, 6 * block), block=block, density=density, seed=block)
    masked, packed = both(pattern)
    generator = torch.Generator().manual_seed(1)
    seen = {pattern.digest()}
    for number in range(20):
        for _ in range(2):
            gradient = torch.randn(pattern.shape, generator=generator)
            masked.step(gradient)
            packed.step(gradient)
        scores = masked.scores(norm, 3)
        assert torch.equal(packed.scores(norm, 2), scores)
        grow = torch.rand(pattern.num_blocks, generator=generator)
        num_moved = max(1, pattern.num_active // 4)
        edit = drop_and_grow(masked.pattern, scores, grow, num_moved, regrow_dropped=regrow_dropped)
        masked.edit(edit)
        packed.edit(edit)
        assert masked.layout.holds(masked.pattern) and packed.layout.holds(packed.pattern)
        for one, other in zip(masked.everything(), packed.everything(), strict=True):
            assert torch.equal(one, other), number
            assert not one[~masked.pattern.mask()].any()
        seen.add(masked.pattern.digest())
    assert len(seen) > (1 if regrow_dropped else 10)


def test_a_slot_left_as_it_was_is_noticed() -> None:
    """The mistake that the comparison is there for: a grown block that begins with what its slot held."""
    pattern = BlockPattern.random((12, 16), block=2, density=0.4)
    masked, packed = both(pattern)
    edit = random_edit(pattern, 0, 3)
    masked.edit(edit)
    packed.pattern = apply_edit(pattern, edit)
    assert not torch.equal(masked.everything()[0], packed.everything()[0])
    again = both(pattern)[1]
    again.edit(edit)
    assert torch.equal(masked.everything()[0], again.everything()[0])


def test_inactive() -> None:
    pattern = BlockPattern.random((12, 16), block=2, density=0.4)
    masked, packed = both(pattern)
    assert masked.layout.inactive is not None
    assert torch.equal(masked.layout.inactive, ~pattern.mask())
    assert packed.layout.inactive is None
