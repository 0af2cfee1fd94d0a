"""Models from dense to packed and back, in place and exactly.

Shape legend: n elements of a fragment, N elements of the stored parameter, S slots.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from dsparse.errors import UserError
from dsparse.kernels.backend import Kernel
from dsparse.layout.packed import PackedLinear, check_fits, check_packable, hold_values
from dsparse.methods.scores import Norm, partial_slot_scores
from dsparse.pattern.block_pattern import BlockPattern
from dsparse.pattern.edit import PatternEdit

_BARE = "Expected a model with layers in it for the packed layout. Got a single layer; wrap it."


class PackedWeight:
    """A packed weight as the engine sees it: a `WeightLayout`. Tied layers share one."""

    def __init__(self, layers: Sequence[PackedLinear]) -> None:
        self._layers = list(layers)

    def set_pattern(self, pattern: BlockPattern) -> None:
        """Puts another pattern of as many blocks in force, from the next forward on."""
        for layer in self._layers:
            layer.set_pattern(pattern)

    def holds(self, pattern: BlockPattern) -> bool:
        """Whether exactly this pattern is in force."""
        return all(layer.holds(pattern) for layer in self._layers)

    def partial_scores(self, fragment_n: Tensor, start: int, pattern: BlockPattern, norm: Norm) -> Tensor:
        """int64 [S], norms of the active blocks from elements `start` … of the stored values (fp32 [n])."""
        return partial_slot_scores(fragment_n, start, pattern, norm)

    def touched(self, pattern: BlockPattern, edit: PatternEdit) -> Tensor:
        """bool [N], the values of slots that hold another block after the edit."""
        touched_S = torch.zeros(pattern.num_active, dtype=torch.bool, device=edit.slots.device)
        touched_S[edit.slots] = True
        return _over_values(touched_S, pattern.block)

    def stale(self, before: BlockPattern, after: BlockPattern) -> Tensor:
        """bool [N], where optimizer state kept from one pattern has no place in another: slots of other blocks."""
        return _over_values(before.block_numbers() != after.block_numbers(), after.block)

    @property
    def inactive(self) -> Tensor | None:
        """None: everything stored is active."""
        return None

    def release(self) -> None:
        """Nothing to do: the layers work without an engine."""


def _over_values(of_slots_S: Tensor, block: int) -> Tensor:
    """Each slot's entry for each of its values, [N]."""
    return of_slots_S.unsqueeze(1).expand(-1, block**2).flatten()


def pack_linears(
    model: nn.Module, patterns: Mapping[str, BlockPattern], *, kernel: Kernel = "auto"
) -> dict[str, PackedWeight]:
    """Replaces the `nn.Linear` layers of the named weights by packed ones, in place.

    Args:
        model: any module; parameters keep names and identity.
        patterns: by parameter name.
        kernel: "auto" or the name of a backend, for all of them.

    Returns:
        By parameter name.

    Raises:
        UserError: a weight belongs to something else than plain `nn.Linear` layers, or one of these cannot be packed
            (see `PackedLinear.from_linear`). The model is unchanged then.
    """
    layers = check_model(model, patterns)
    for name, pattern in patterns.items():
        for linear in layers[name].values():
            check_fits(linear, pattern)
    result: dict[str, PackedWeight] = {}
    for name, pattern in patterns.items():
        weight = model.get_parameter(name)
        packed: dict[nn.Linear, PackedLinear] = {}
        for path, linear in layers[name].items():
            if not packed:
                packed[linear] = PackedLinear.from_linear(linear, pattern, kernel=kernel)
            elif linear not in packed:  # a tied layer
                packed[linear] = PackedLinear(weight, linear.bias, pattern, kernel=kernel).train(linear.training)
            _replace(model, path, packed[linear])
        result[name] = PackedWeight(list(packed.values()))
    return result


def check_model(model: nn.Module, names: Collection[str]) -> dict[str, dict[str, nn.Linear]]:
    """The layers that `pack_linears` would replace, by parameter name and path.

    Raises:
        UserError: some cannot be packed, whatever their patterns.
    """
    layers = {name: _layers_of(model, model.get_parameter(name), name) for name in names}
    if len({id(model.get_parameter(name)) for name in names}) < len(names):
        raise UserError(f"Expected one name for each weight. Got two for a tied one among {', '.join(names)}.")
    for name, of_weight in layers.items():
        for path, linear in of_weight.items():
            check_packable(linear)
            if isinstance(model.get_submodule(path.rpartition(".")[0]), nn.TransformerEncoderLayer):
                raise UserError(
                    f"Expected layers that are called for the packed layout. Got {name!r} of an "
                    'nn.TransformerEncoderLayer, which reads its weights itself; choose "layout": "masked".'
                )
    return layers


def unpack_linears(model: nn.Module) -> None:
    """Replaces every packed layer by an `nn.Linear` with zeros at inactive blocks, in place; undoes `pack_linears`."""
    packed = {path: layer for path, layer in _modules_by_path(model).items() if isinstance(layer, PackedLinear)}
    if "" in packed:
        raise UserError(_BARE)
    linears: dict[PackedLinear, nn.Linear] = {}
    unpacked: set[nn.Parameter] = set()
    for path, layer in packed.items():
        if layer.weight not in unpacked:  # else it is tied
            hold_values(layer.weight, layer.dense_weight().detach())
            unpacked.add(layer.weight)
        if layer not in linears:
            linears[layer] = _linear_of(layer)
        _replace(model, path, linears[layer])


def _linear_of(layer: PackedLinear) -> nn.Linear:
    linear = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta").train(layer.training)
    linear.weight = layer.weight
    linear.register_parameter("bias", layer.bias)
    return linear


def _layers_of(model: nn.Module, weight: nn.Parameter, name: str) -> dict[str, nn.Linear]:
    """The linear layers that use a weight, by every path that leads to them."""
    users = {
        path: module
        for path, module in _modules_by_path(model).items()
        if any(parameter is weight for parameter in module.parameters(recurse=False))
    }
    odd = [path for path, module in users.items() if type(module) is not nn.Linear or module.weight is not weight]
    if odd or not users:
        kind = type(users[odd[0]]).__qualname__ if odd else "nothing"
        raise UserError(
            f"Expected plain nn.Linear layers around {name!r} for the packed layout. Got {kind}; exclude the weight, "
            'or choose "layout": "masked".'
        )
    if "" in users:
        raise UserError(_BARE)
    return {path: module for path, module in users.items() if isinstance(module, nn.Linear)}


def _modules_by_path(model: nn.Module) -> dict[str, nn.Module]:
    return dict(model.named_modules(remove_duplicate=False))


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
