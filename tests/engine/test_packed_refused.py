"""What cannot be packed is refused by the check that needs no process group, and the model is as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dsparse.engine.initialize import check_sparse_run
from dsparse.errors import UserError

CONFIG: dict[str, Any] = {
    "dynamic_sparsity": {"sparsity": 0.75, "block_size": 4, "total_steps": 10, "updates": 2, "layout": "packed"}
}


class Scaled(nn.Linear):
    """A linear layer with a forward of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def with_hook(model: nn.Sequential) -> None:
    model[2].register_forward_hook(lambda *_: None)


def with_a_subclass(model: nn.Sequential) -> None:
    model[2] = Scaled(8, 8)


def partitioned(model: nn.Sequential) -> None:
    model[2].weight.ds_id, model[2].weight.ds_shape = 1, model[2].weight.shape


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (with_hook, "without hooks"),
        (with_a_subclass, "Got Scaled; exclude the weight"),
        (partitioned, r"outside of deepspeed.zero.Init for the packed layout. Got '2.weight'"),
    ],
)
def test_refused_by_name(spoil: Callable[[nn.Sequential], None], message: str) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    assert check_sparse_run(CONFIG, model).layout == "packed"
    spoil(model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with pytest.raises(UserError, match=message):
        check_sparse_run(CONFIG, model)
    assert type(model[0]) is nn.Linear
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    masked = {"dynamic_sparsity": CONFIG["dynamic_sparsity"] | {"layout": "masked"}}
    assert check_sparse_run(masked, model).layout == "masked"
