"""The invariant, checked from outside: beyond the pattern every weight, master and moment is exactly 0.

Where DeepSpeed has public calls (`safe_get_full_*`, `GatheredParameters`) they are what is read, not the places that
`fragments` believes in. So a release of DeepSpeed that moves things makes training stop, never quietly drift.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from deepspeed import zero
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from torch import Tensor

from dsparse.engine.agree import Agreement
from dsparse.engine.fragments import FragmentMap
from dsparse.errors import InvariantError


@torch.no_grad()
def require_zeros(fragments: FragmentMap, zeros: Mapping[str, Tensor], agreement: Agreement, when: str) -> None:
    """Raises on every rank if a weight, its master or a moment is not 0 where it must be.

    It gathers each weight and moment whole, one after another: dear, so it is not done at every update.

    Args:
        fragments: where ZeRO keeps things.
        zeros: bool by weight name, as many elements as the stored parameter: outside the pattern for a weight that
            stores zeros there, the slots that an update has just emptied for one that stores active blocks only.
        agreement: the ranks.
        when: for the message, "after update 3".
    """
    places: list[str] = []
    broken: list[bool] = []
    for name, must_be_zero in zeros.items():
        for state, tensor in full_states(fragments, name):
            outside = must_be_zero.to(tensor.device).view_as(tensor)
            places.append(f"{state} of {name!r}")
            broken.append(bool((tensor.masked_fill(~outside, 0) != 0).any()))
    found = [place for place, is_broken in zip(places, agreement.any_rank(broken), strict=True) if is_broken]
    if found:
        raise InvariantError(
            f"Expected exact zeros outside the pattern {when}. Got others in {'; '.join(found[:8])}"
            f"{f' and {len(found) - 8} more' if len(found) > 8 else ''}. Something else writes to these tensors, or "
            "this DeepSpeed release keeps them elsewhere."
        )


def full_states(fragments: FragmentMap, name: str) -> Iterator[tuple[str, Tensor]]:
    """Each state of a weight, whole and shaped like the parameter, by name: "weight", "master" and every moment.

    A collective call.
    """
    weight = fragments.parameter(name)
    if fragments.stage == 0:
        fragment = fragments[name]
        yield "weight", weight.data
        yield "master", fragment.master_n.view_as(weight)
        for key, moment_n in fragment.moments_n.items():
            yield key, moment_n.view_as(weight)
        return
    fragments.link_public_calls()
    with zero.GatheredParameters([weight], enabled=fragments.stage == 3):
        yield "weight", weight.data
        shape = weight.shape
    yield "master", safe_get_full_fp32_param(weight).view(shape)
    for key in fragments.moment_names():
        yield key, safe_get_full_optimizer_state(weight, key).view(shape)
