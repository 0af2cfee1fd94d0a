"""Models from dense to packed and back: exact, in place, and whole or not at all."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import BertForPreTraining

from dsparse.errors import UserError
from dsparse.layout.convert import PackedWeight, pack_linears, unpack_linears
from dsparse.layout.masked import MaskedWeight, zero_outside
from dsparse.layout.packed import PackedLinear, pack
from dsparse.models.bert import BertPreset, bert_config
from dsparse.models.selection import linear_weights
from dsparse.pattern.block_pattern import BlockPattern

Patterns = dict[str, BlockPattern]


def patterns_of(model: nn.Module, names: list[str], *, block: int = 2, density: float = 0.4) -> Patterns:
    def one(name: str) -> BlockPattern:
        num_out, num_in = model.get_parameter(name).shape
        return BlockPattern.random((num_out, num_in), block=block, density=density, seed=3, name=name)

    return {name: one(name) for name in names}


def small_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        OrderedDict(first=nn.Linear(8, 6), act=nn.Tanh(), inner=nn.Sequential(nn.Linear(6, 4, bias=False)))
    ).double()


SMALL = ["first.weight", "inner.0.weight"]


class Tied(nn.Module):
    """One weight in two layers with biases of their own, and one layer at two paths."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.two.weight = self.one.weight
        self.again = self.one
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.again(torch.tanh(self.two(torch.tanh(self.one(x)))))))


def masked_twin(model: nn.Module, patterns: Patterns) -> nn.Module:
    """The same model, its weights 0 and their gradients masked outside the patterns."""
    twin = copy.deepcopy(model)
    for name, pattern in patterns.items():
        zero_outside(twin.get_parameter(name), pattern)
        MaskedWeight(twin.get_parameter(name), pattern)
    return twin


def same_state(one: nn.Module, other: nn.Module) -> bool:
    """Keys in order, values bit for bit."""
    ones, others = one.state_dict(), other.state_dict()
    return list(ones) == list(others) and all(torch.equal(ones[key], others[key]) for key in ones)


def state_of(model: nn.Module) -> list[tuple[str, int, type[nn.Module]]]:
    """What a conversion that refuses must not change: modules, parameters, shapes."""
    shapes = [(name, id(parameter), parameter.shape) for name, parameter in model.named_parameters()]
    return [*shapes, *((path, id(module), type(module)) for path, module in model.named_modules())]  # type: ignore[list-item]


@given(st.sampled_from([1, 2]), st.floats(0.05, 1.0), st.integers(0, 2**31))
def test_there_and_back_is_the_masked_model(block: int, density: float, seed: int) -> None:
    model = small_model(seed)
    patterns = patterns_of(model, SMALL, block=block, density=density)
    twin = masked_twin(model, patterns)
    names = [(name, id(parameter)) for name, parameter in model.named_parameters()]
    packed = pack_linears(model, patterns, kernel="reference")
    assert list(packed) == SMALL
    assert [(name, id(parameter)) for name, parameter in model.named_parameters()] == names
    for name, pattern in patterns.items():
        assert torch.equal(model.get_parameter(name), pack(twin.get_parameter(name), pattern))
    x = torch.randn(3, 8, dtype=torch.float64)
    torch.testing.assert_close(model(x), twin(x), rtol=0, atol=1e-12)
    unpack_linears(model)
    assert [(name, id(parameter)) for name, parameter in model.named_parameters()] == names
    assert repr(model) == repr(twin)
    assert same_state(model, twin)
    assert torch.equal(model(x), twin(x))


def test_bert() -> None:
    """Every linear layer of an encoder; outputs after the way back are the masked model's bit for bit."""
    config = bert_config(
        BertPreset(num_layers=2, hidden_size=32, num_heads=2), vocab_size=61, max_seq_length=16, dropout=0.0
    )
    torch.manual_seed(0)
    model = BertForPreTraining(config).eval()
    names = [name for name in linear_weights(model) if ".encoder." in name]
    assert len(names) == 12
    patterns = patterns_of(model, names, block=4, density=0.25)
    twin = masked_twin(model, patterns)
    before = sum(parameter.numel() for parameter in model.parameters())
    pack_linears(model, patterns, kernel="reference")
    saved = sum(p.shape[0] * p.shape[1] - p.num_active * p.block**2 for p in patterns.values())
    assert sum(parameter.numel() for parameter in model.parameters()) == before - saved
    ids = torch.arange(20).view(2, 10)
    expected = twin(input_ids=ids)
    torch.testing.assert_close(model(input_ids=ids).prediction_logits, expected.prediction_logits)
    again = copy.deepcopy(model)
    assert torch.equal(again(input_ids=ids).prediction_logits, model(input_ids=ids).prediction_logits)
    unpack_linears(model)
    assert same_state(model, twin)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    got = model(input_ids=ids)
    assert torch.equal(got.prediction_logits, expected.prediction_logits)
    assert torch.equal(got.seq_relationship_logits, expected.seq_relationship_logits)


def test_an_optimizer_made_before_goes_on() -> None:
    """AdamW on packed and on masked parameters takes the same steps."""
    model = small_model()
    patterns = patterns_of(model, SMALL)
    twin = masked_twin(model, patterns)
    optimizers = [torch.optim.AdamW(one.parameters(), lr=0.1) for one in (model, twin)]
    pack_linears(model, patterns, kernel="reference")
    x, target = torch.randn(5, 8, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    for _ in range(5):
        for one, optimizer in zip((model, twin), optimizers, strict=True):
            optimizer.zero_grad()
            (one(x) - target).square().sum().backward()
            optimizer.step()
    moment = optimizers[0].state[model.get_parameter("first.weight")]["exp_avg"]
    assert moment.shape == (patterns["first.weight"].num_active, 2, 2)
    unpack_linears(model)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_graph_of_before_does_no_harm(dtype: torch.dtype) -> None:
    """Autograd remembers shapes as long as a graph is alive, and scripts keep their last loss."""
    model = small_model().to(dtype)
    x = torch.randn(3, 8, dtype=dtype)
    alive = [model(x).sum()]
    alive[0].backward()
    pack_linears(model, patterns_of(model, SMALL), kernel="reference")
    assert model.get_parameter("first.weight").grad is None
    alive.append(model(x).sum())
    alive[1].backward()
    gradient = model.get_parameter("first.weight").grad
    assert gradient is not None and gradient.shape == model.get_parameter("first.weight").shape
    unpack_linears(model)
    model(x).sum().backward()
    gradient = model.get_parameter("first.weight").grad
    assert gradient is not None and gradient.shape == (6, 8)


def test_tied_layers_share_weight_and_pattern() -> None:
    model = Tied()
    patterns = patterns_of(model, ["one.weight"])
    twin = masked_twin(model, patterns)
    weights = pack_linears(model, patterns, kernel="reference")
    assert model.one.weight is model.two.weight and model.again is model.one
    assert model.one.bias is not model.two.bias
    assert list(model.state_dict()) == list(twin.state_dict())
    x = torch.randn(3, 8, dtype=torch.float64)
    for one in (model, twin):
        one(x).square().sum().backward()
    gradient, expected = (one.get_parameter("one.weight").grad for one in (model, twin))
    assert gradient is not None and expected is not None
    torch.testing.assert_close(gradient, pack(expected, patterns["one.weight"]), rtol=0, atol=1e-11)
    for name in ("one.bias", "two.bias"):
        torch.testing.assert_close(model.get_parameter(name).grad, twin.get_parameter(name).grad, rtol=0, atol=1e-11)
    other = BlockPattern.random((8, 8), block=2, density=0.4, seed=9)
    weights["one.weight"].set_pattern(other)
    assert weights["one.weight"].holds(other)
    for layer in (model.one, model.two):
        assert isinstance(layer, PackedLinear) and layer.holds(other)
        layer.set_pattern(patterns["one.weight"])
        assert not weights["one.weight"].holds(other)
    unpack_linears(model)
    assert same_state(model, twin)
    assert model.one.weight is model.two.weight and model.again is model.one
    assert torch.equal(model(x), twin(x))


def test_a_frozen_weight_stays_frozen() -> None:
    model = small_model()
    model.first.weight.requires_grad_(False)
    pack_linears(model, patterns_of(model, SMALL), kernel="reference")
    model(torch.randn(2, 8, dtype=torch.float64)).sum().backward()
    assert not model.first.weight.requires_grad and model.first.weight.grad is None
    assert model.first.bias.grad is not None
    unpack_linears(model)
    assert not model.first.weight.requires_grad


def test_a_model_without_packed_layers_is_left_alone() -> None:
    model = small_model()
    before = state_of(model)
    unpack_linears(model)
    assert pack_linears(model, {}) == {}
    assert state_of(model) == before


def hooked() -> nn.Module:
    model = small_model()
    model.inner[0].register_forward_hook(lambda *arguments: None)  # type: ignore[index]
    return model


def hooked_tied() -> nn.Module:
    model = Tied()
    model.two.register_forward_hook(lambda *arguments: None)
    return model


class Embedded(nn.Module):
    """A weight that is also an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.decoder, self.embedding = nn.Linear(8, 6), nn.Linear(8, 6, bias=False), nn.Embedding(6, 8)
        self.decoder.weight = self.embedding.weight


REFUSED: dict[str, tuple[Callable[[], nn.Module], list[str], str]] = {
    "bare linear": (lambda: nn.Linear(8, 6), ["weight"], "Got a single layer; wrap it"),
    "hook on the second": (hooked, SMALL, "without hooks"),
    "hook on the tied": (hooked_tied, ["last.weight", "one.weight"], "without hooks"),
    "tied to an embedding": (Embedded, ["fine.weight", "embedding.weight"], "around 'embedding.weight' .* Got Embed"),
    "bilinear": (lambda: nn.Sequential(nn.Linear(8, 6), nn.LayerNorm((6, 8))), ["0.weight", "1.weight"], "LayerNorm"),
    "attention": (lambda: nn.Sequential(nn.MultiheadAttention(8, 2)), ["0.out_proj.weight"], "NonDynamically"),
    "two names of one": (Tied, ["one.weight", "two.weight"], "Expected one name for each weight"),
}


@pytest.mark.parametrize(("make", "names", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_whole(make: Callable[[], nn.Module], names: list[str], message: str) -> None:
    model = make()
    before = state_of(model)
    with pytest.raises(UserError, match=message):
        pack_linears(model, patterns_of(model, names))
    assert state_of(model) == before


def test_refuses_a_pattern_of_another_shape_whole() -> None:
    model = small_model()
    before = state_of(model)
    patterns = patterns_of(model, SMALL)
    with pytest.raises(UserError, match=r"Expected a pattern of \[4, 6\]\. Got one of \[6, 8\]"):
        pack_linears(model, patterns | {"inner.0.weight": patterns["first.weight"]})
    assert state_of(model) == before


def test_refuses_twice() -> None:
    model = small_model()
    patterns = patterns_of(model, SMALL)
    pack_linears(model, patterns)
    before = state_of(model)
    with pytest.raises(UserError, match="Got PackedLinear"):
        pack_linears(model, patterns)
    assert state_of(model) == before
    layer = model.first
    with pytest.raises(UserError, match="Got a single layer; wrap it"):
        unpack_linears(layer)
    assert state_of(model) == before


def test_a_packed_weight_has_no_inactive_values() -> None:
    model = small_model()
    weight = pack_linears(model, patterns_of(model, SMALL))["first.weight"]
    assert isinstance(weight, PackedWeight) and weight.inactive is None
    weight.release()
    assert isinstance(model.first, PackedLinear)
