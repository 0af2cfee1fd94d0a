"""Which weights are sparse: every `nn.Linear` weight not tied to an embedding, narrowed by `modules` and `exclude`.

A filter is a plain string, which matches a whole dotted part of a parameter's name or a run of parts ("bert.encoder"
matches "bert.encoder.layer.0.output.dense.weight", "encode" does not), or "re:" and a regular expression that is
searched for in the name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

from dsparse.errors import UserError
from dsparse.pattern.block_pattern import check_block_divides


def select_weights(
    model: nn.Module, *, modules: Iterable[str] = (), exclude: Iterable[str] = ()
) -> dict[str, nn.Parameter]:
    """The weights to make sparse, by parameter name, in the model's order.

    Args:
        model: any module.
        modules: filters of which a weight must match at least one; none given means all.
        exclude: filters of which it must match none.

    Raises:
        UserError: a filter matches no weight, or nothing is left.
    """
    candidates = linear_weights(model)
    if not candidates:
        raise UserError(f"Expected nn.Linear layers to make sparse. Got a {type(model).__name__} without any.")
    modules, exclude = list(modules), list(exclude)
    for key, filters in (("modules", modules), ("exclude", exclude)):
        for one in filters:
            if not any(matches(one, name) for name in candidates):
                raise UserError(
                    f"Expected every filter in dynamic_sparsity.{key} to match an nn.Linear weight. "
                    f"Got {one!r}, which matches none; weights are named like {next(iter(candidates))!r}."
                )
    selected = {
        name: weight
        for name, weight in candidates.items()
        if (not modules or any(matches(one, name) for one in modules))
        and not any(matches(one, name) for one in exclude)
    }
    if not selected:
        raise UserError("Expected dynamic_sparsity.modules to leave at least one weight. Got an exclude for every one.")
    return selected


def check_blocks_divide(shapes: dict[str, tuple[int, int]], block_size: int) -> None:
    """Raises one UserError for all weights that the block size does not divide, with the exclude line that drops them.

    Args:
        shapes: (O, I) by weight name.
        block_size: elements per block side.
    """
    odd = [name for name, (rows, cols) in shapes.items() if rows % block_size or cols % block_size]
    if not odd:
        return
    try:
        check_block_divides(shapes[odd[0]], block_size, odd[0])
    except UserError as error:
        more = f" ({len(odd) - 1} more: {', '.join(odd[1:4])}{', …' if len(odd) > 4 else ''})" if len(odd) > 1 else ""
        names = ", ".join(f'"{name}"' for name in odd)
        raise UserError(f'{error}{more} Or leave them dense: "exclude": [{names}].') from None


def linear_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of all `nn.Linear` layers that are trained and not shared with an `nn.Embedding`, by parameter name."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    linears = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if id(parameter) in linears and id(parameter) not in embeddings and parameter.requires_grad
    }


def matches(one_filter: str, name: str) -> bool:
    """Whether a filter matches a parameter name."""
    if one_filter.startswith("re:"):
        try:
            return re.search(one_filter[3:], name) is not None
        except re.error as error:
            raise UserError(f"Expected a regular expression after 're:'. Got {one_filter!r}: {error}.") from None
    return f".{one_filter}." in f".{name}."
