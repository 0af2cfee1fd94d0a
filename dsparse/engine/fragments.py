"""Where ZeRO keeps things: the one module that knows DeepSpeed's optimizers from inside.

For each sparse weight a rank owns at most one *fragment*, a contiguous range of the flattened weight, with the fp32
master values, the moments, and low-precision copies that may cover more than the fragment:

| case                | owned range            | masters and moments                     | low-precision copies      |
|---------------------|------------------------|-----------------------------------------|---------------------------|
| stage 0, fp32       | whole weight           | the parameter, torch's optimizer state  | none                      |
| stage 0, bf16, fp16 | whole weight           | fp32 group of DeepSpeed's wrapper       | the parameter             |
| stages 1 and 2      | `_hp_mapping`, or none | flat partition of the parameter's group | the parameter, whole      |
| stage 3             | rank · shard size …    | flat partition of the sub-group         | shard, gathered parameter |

A pattern update only ever zeroes, so it is enough to zero every copy in place: nothing is gathered or sent, and no copy
is refreshed from another. Everything here was seen to hold in the DeepSpeed releases named in `compatibility`.

Shape legend: n elements of a fragment, N elements of a whole weight as its layout stores it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor, nn

from dsparse.engine.compatibility import MOMENTS
from dsparse.errors import SparsityError


@dataclass(frozen=True, slots=True, eq=False)
class Fragment:
    """What this rank holds of one weight. All tensors are views: writing to them writes to DeepSpeed's own."""

    start: int
    """First owned element, in the row-major order of the whole weight."""
    master_n: Tensor
    """[n] fp32 (n = 0 where this rank owns nothing)."""
    moments_n: dict[str, Tensor]
    """[n] each, by the optimizer's name for it."""
    copies: tuple[tuple[int, Tensor], ...]
    """(first element, flat view) of each further copy of the weight."""

    @torch.no_grad()
    def zero(self, touched_N: Tensor) -> None:
        """Sets master, moments and every copy to exactly 0 where `touched_N` (bool [N]) is true."""
        owned = [(self.start, self.master_n), *((self.start, moment) for moment in self.moments_n.values())]
        for start, view in (*owned, *self.copies):
            part = touched_N[start : start + view.numel()].to(view.device)
            view.masked_fill_(part, 0)

    @torch.no_grad()
    def zero_moments(self, stale_N: Tensor) -> None:
        """Sets the moments alone to exactly 0 where `stale_N` (bool [N]) is true."""
        for moment_n in self.moments_n.values():
            moment_n.masked_fill_(stale_N[self.start : self.start + moment_n.numel()].to(moment_n.device), 0)


@dataclass(frozen=True, slots=True, eq=False)
class SavedWeight:
    """All of one weight as a checkpoint has it."""

    master_N: Tensor
    """[N] fp32, row-major."""
    moments_N: Mapping[str, Tensor]
    """[N] fp32 each, by the optimizer's name for it; empty before the first step."""
    step: Tensor | int | None
    """The optimizer's own count of its steps; None where it keeps that elsewhere, or before the first."""


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Where this rank's part of a weight is."""

    start: int
    """First owned element, in the row-major order of the whole weight."""
    owner: Any
    """The tensor that the optimizer steps, [...] fp32; None where this rank owns nothing."""
    offset: int
    """First element of the fragment in the flattened owner."""
    num: int
    copies: tuple[tuple[int, Tensor], ...]

    def of(self, tensor: Tensor) -> Tensor:
        """The fragment's part, [num], of a tensor laid out like the owner."""
        return tensor.view(-1)[self.offset : self.offset + self.num]

    def moments(self, state: Mapping[str, Any]) -> dict[str, Tensor]:
        """Views of the optimizer's elementwise state of the fragment."""
        if self.owner is None:
            return {}
        tensors = {
            key: value for key, value in state.items() if torch.is_tensor(value) and value.shape == self.owner.shape
        }
        unknown = [key for key, value in tensors.items() if key not in MOMENTS and value.numel() > 1]
        if unknown:
            raise SparsityError(f"Expected optimizer state among {sorted(MOMENTS)}. Got {unknown}, which nobody masks.")
        return {key: self.of(value) for key, value in tensors.items() if key in MOMENTS}


class FragmentMap:
    """Finds the fragment of any weight, afresh at each call: loading a checkpoint replaces optimizer state."""

    def __init__(self, engine: DeepSpeedEngine, weights: Mapping[str, nn.Parameter]) -> None:
        self._engine = engine
        self._weights = dict(weights)
        self._stage: int = engine.zero_optimization_stage()
        self._slices = {} if self._stage else wrapper_slices(engine.optimizer)

    def __contains__(self, name: str) -> bool:
        return name in self._weights

    @property
    def partitioned(self) -> bool:
        """Whether ranks own different parts of a weight; if not, each owns all of it."""
        return self._stage > 0

    @property
    def stage(self) -> int:
        """ZeRO stage, 0 to 3."""
        return self._stage

    def parameter(self, name: str) -> nn.Parameter:
        """The parameter itself."""
        return self._weights[name]

    @torch.no_grad()
    def __getitem__(self, name: str) -> Fragment:
        place = self._place(name)
        state = self._base_optimizer().state.get(place.owner, {}) if place.owner is not None else {}
        master_n = place.of(place.owner.data) if place.owner is not None else _nothing(self._weights[name])
        return Fragment(place.start, master_n, place.moments(state), place.copies)

    @torch.no_grad()
    def restore(self, name: str, saved: SavedWeight, *, with_moments: bool = True) -> None:
        """Writes the whole state of a weight into whatever of it this rank holds.

        Args:
            name: of the weight.
            saved: [N] fp32 each, the weight flattened; read only.
            with_moments: whether the optimizer's state is written too, or left as it is.
        """
        place = self._place(name)
        for start, view in place.copies:
            view.copy_(saved.master_N[start : start + view.numel()])
        if place.owner is None:
            return
        part = slice(place.start, place.start + place.num)
        place.of(place.owner.data).copy_(saved.master_N[part])
        if not with_moments:
            return
        states = self._base_optimizer().state
        if not saved.moments_N and saved.step is None:  # saved before the first step
            states.pop(place.owner, None)
            return
        state = states[place.owner]
        for key, moment_N in saved.moments_N.items():
            if key not in state:
                state[key] = torch.zeros_like(place.owner, dtype=torch.float32)
            place.of(state[key]).copy_(moment_N[part])
        if torch.is_tensor(saved.step):
            # Where it is now: fused optimizers want it on the device, others on the host.
            now = state.get("step")
            state["step"] = saved.step.clone().to(now.device if torch.is_tensor(now) else "cpu")
        elif saved.step is not None:
            state["step"] = saved.step

    @torch.no_grad()
    def refresh_masters(self) -> None:
        """Makes masters what the parameters are, where DeepSpeed does not after a load without optimizer state.

        Its stage-0 wrappers keep the masters of before, and would write them back at the next step.
        """
        for weight in self._weights.values():
            if id(weight) in self._slices:
                master, offset, num = self._slices[id(weight)]
                master.data.view(-1)[offset : offset + num].copy_(weight.data.view(-1))

    def owner_sizes(self) -> list[int]:
        """Elements of each tensor that the optimizer steps on this rank: ZeRO's partition, as two runs must share it
        for one to read the other's files as they are."""
        owners = [self._place(name).owner for name in self._weights]
        return list({id(owner): owner.numel() for owner in owners if owner is not None}.values())

    def link_public_calls(self) -> None:
        """Makes `safe_get_full_optimizer_state` read the optimizer state of now.

        At stages 1 and 2 DeepSpeed links it once, right after it has stepped the first parameter group: groups behind
        it have no state then, and a load, or an offload of states, replaces the tensors that were linked.
        """
        if self._stage not in (1, 2):
            return
        optimizer = self._engine.optimizer
        if all(optimizer.optimizer.state.get(flat) for flat in optimizer.single_partition_of_fp32_groups):
            optimizer._hp_optimizer_states_linked = False
            optimizer._lazy_init_hp_params_optimizer_state()

    def moment_names(self) -> list[str]:
        """Names of the elementwise optimizer state there is, the same on every rank; none before the first step."""
        keys = {
            key
            for state in self._base_optimizer().state.values()
            for key, value in state.items()
            if torch.is_tensor(value)
        }
        return sorted(keys & MOMENTS)

    def check_all_found(self) -> None:
        """Raises where a sparse weight is not among the parameters that the optimizer was given."""
        found = trained_weights(self._engine.optimizer, self._weights, self._stage)
        for name in self._weights:
            if name not in found:
                raise SparsityError(
                    f"Expected the optimizer to train {name!r}. It is not among the parameters it was given; "
                    "pass all parameters, or exclude the weight in dynamic_sparsity.exclude."
                )

    def _place(self, name: str) -> _Place:
        weight = self._weights[name]
        if self._stage == 3:
            return _stage_3(weight)
        if self._stage:
            return _stage_1_and_2(weight, self._engine.optimizer)
        whole = weight.data.view(-1)
        if id(weight) not in self._slices:
            return _Place(0, weight, 0, whole.numel(), ())
        master, offset, num = self._slices[id(weight)]
        return _Place(0, master, offset, num, ((0, whole),))

    def _base_optimizer(self) -> Any:
        """The optimizer inside DeepSpeed's wrapper, whose state is keyed by the owners."""
        return getattr(self._engine.optimizer, "optimizer", self._engine.optimizer)


def trained_weights(optimizer: Any, weights: Mapping[str, Any], stage: int) -> dict[str, Any]:
    """Those of the weights that an engine's optimizer has, by name."""
    if not hasattr(optimizer, "param_groups"):
        return {}
    of_groups = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    known = of_groups | wrapper_slices(optimizer).keys() if stage == 0 else set()

    def is_known(weight: Any) -> bool:
        if stage == 3:
            return optimizer.get_param_id(weight) in optimizer.grad_position
        return hasattr(weight, "_hp_mapping") if stage else id(weight) in known

    return {name: weight for name, weight in weights.items() if weight.requires_grad and is_known(weight)}


def wrapper_slices(optimizer: Any) -> dict[int, tuple[Tensor, int, int]]:
    """For DeepSpeed's stage-0 wrappers, by id of the parameter: (master tensor, first element in it, how many).

    `FP16_UnfusedOptimizer` keeps one master per parameter, `FP16_Optimizer` (with DeepSpeed's fused Adam) a flat one
    per group; both serve bf16 as well as fp16.
    """
    slices: dict[int, tuple[Tensor, int, int]] = {}
    if hasattr(optimizer, "fp32_groups"):
        for low, high in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            slices.update({id(p): (master, 0, p.numel()) for p, master in zip(low, high, strict=True)})
    elif hasattr(optimizer, "fp32_groups_flat"):
        for low, flat in zip(optimizer.fp16_groups, optimizer.fp32_groups_flat, strict=True):
            start = 0
            for p in low:
                slices[id(p)] = (flat, start, p.numel())
                start += p.numel()
    return slices


def _stage_1_and_2(weight: Any, optimizer: Any) -> _Place:
    copies = ((0, weight.data.view(-1)),)
    mapping = weight._hp_mapping
    if mapping is None:
        return _Place(0, None, 0, 0, copies)
    # Not `mapping.optim_fragment`: those views go stale when a loaded checkpoint replaces the flat state tensors.
    owner = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    start, num = mapping.hp_fragment_address.start, mapping.hp_fragment_address.numel
    return _Place(mapping.lp_fragment_address.start, owner, start, num, copies)


def _stage_3(weight: Any) -> _Place:
    optimizer = weight._z3_optimizer
    shard_size = weight.ds_tensor.ds_numel
    start = optimizer._get_param_partition_rank(weight) * shard_size
    # The last shards may reach past the weight's end: that part is padding.
    num = max(0, min(shard_size, weight.ds_numel - start))
    group, offset, _ = optimizer.grad_position[optimizer.get_param_id(weight)]
    copies = [(start, weight.ds_tensor.data.view(-1)[:num])]
    if weight.data.numel() == weight.ds_numel:  # kept gathered: small, or between forward and backward
        copies.append((0, weight.data.view(-1)))
    return _Place(start, optimizer.fp32_partitioned_groups_flat[group], offset, num, tuple(copies))


def _nothing(weight: Tensor) -> Tensor:
    return torch.empty(0, device=weight.device)
