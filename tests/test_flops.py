"""FLOP counts against the paper's numbers, against counting by hand and against torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dsparse.errors import UserError
from dsparse.flops import (
    attention_training_flops,
    bert_heads_training_flops,
    bert_training_flops,
    linear_training_flops,
    weights_training_flops,
)


@pytest.mark.parametrize(
    ("num_layers", "hidden_size", "density", "published"),
    [
        pytest.param(12, 768, 0.1, 8.33e9, id="base, 90 % sparse"),
        pytest.param(8, 512, 0.1, 2.738e9, id="medium, 90 % sparse"),
        pytest.param(4, 512, 1.0, 10.07e9, id="small, dense"),
    ],
)
def test_flops_per_sequence_are_the_papers(num_layers: int, hidden_size: int, density: float, published: float) -> None:
    flops = bert_training_flops(num_layers=num_layers, hidden_size=hidden_size, density=density)
    # Published to three or four digits.
    assert flops == pytest.approx(published, rel=1e-3)


def test_a_linear_layer_is_counted_exactly() -> None:
    assert linear_training_flops(5, 7, num_tokens=11) == 3 * 2 * 5 * 7 * 11
    assert linear_training_flops(5, 8, num_tokens=11, density=0.25) == 3 * 2 * 5 * 2 * 11
    assert linear_training_flops(5, 7, num_tokens=0) == 0


def test_the_count_of_any_model_is_the_sum_of_its_weights() -> None:
    weights = {"up": (64, 16, 0.5), "down": (16, 64, 1.0)}
    assert weights_training_flops(weights, num_tokens=3) == 3 * 2 * 3 * (64 * 16 // 2 + 64 * 16)
    assert weights_training_flops({}, num_tokens=3) == 0


def test_bert_is_its_weights_and_attention() -> None:
    layer = {f"attention.{i}": (32, 32, 0.1) for i in range(4)} | {"up": (96, 32, 0.1), "down": (32, 96, 0.1)}
    shape = {"num_layers": 3, "hidden_size": 32, "seq_length": 16, "num_sequences": 5}
    expected = 3 * weights_training_flops(layer, num_tokens=16 * 5) + attention_training_flops(**shape)
    assert bert_training_flops(**shape, intermediate_size=96, density=0.1) == pytest.approx(expected, rel=1e-12)


def test_a_step_is_its_sequences() -> None:
    one = bert_training_flops(num_layers=2, hidden_size=128, density=0.1)
    assert bert_training_flops(num_layers=2, hidden_size=128, density=0.1, num_sequences=256) == pytest.approx(
        256 * one, rel=1e-12
    )


def test_dense_counts_agree_with_torchs_counter() -> None:
    num_tokens, seq_length, hidden = 24, 12, 8
    linear = nn.Linear(hidden, 20, bias=False)
    x = torch.randn(num_tokens, hidden, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        linear(x).sum().backward()
    assert counter.get_total_flops() == linear_training_flops(20, hidden, num_tokens=num_tokens)

    query, key, value = (torch.randn(2, 2, seq_length, hidden // 2, requires_grad=True) for _ in range(3))
    with FlopCounterMode(display=False) as counter:
        (F.softmax(query @ key.mT, dim=-1) @ value).sum().backward()
    assert counter.get_total_flops() == attention_training_flops(
        num_layers=1, hidden_size=hidden, seq_length=seq_length, num_sequences=2
    )


def test_causal_attention_is_half() -> None:
    shape = {"num_layers": 2, "hidden_size": 64, "seq_length": 32}
    assert 2 * attention_training_flops(**shape, causal=True) == attention_training_flops(**shape)


def test_heads_are_counted_apart() -> None:
    flops = bert_heads_training_flops(hidden_size=16, vocab_size=100, num_labelled=30, num_sequences=4)
    assert flops == 3 * 2 * (30 * (16 * 16 + 100 * 16) + 4 * (16 * 16 + 2 * 16))
    without_labels = bert_heads_training_flops(hidden_size=16, vocab_size=100, num_labelled=0, num_sequences=4)
    assert without_labels == 3 * 2 * 4 * (16 * 16 + 2 * 16)


@pytest.mark.parametrize("density", [-0.1, 1.1, float("nan")])
def test_a_density_out_of_range_names_the_weight(density: float) -> None:
    with pytest.raises(UserError, match=r"the density of ffn\.up in \[0, 1\]"):
        weights_training_flops({"ffn.up": (4, 4, density)}, num_tokens=1)


def test_a_size_out_of_range_is_named() -> None:
    with pytest.raises(UserError, match=r"hidden_size to be at least 1\. Got 0"):
        attention_training_flops(num_layers=1, hidden_size=0, seq_length=1)
    with pytest.raises(UserError, match=r"num_tokens to be 0 or more\. Got -1"):
        linear_training_flops(4, 4, num_tokens=-1)
    with pytest.raises(UserError, match=r"num_layers to be at least 1\. Got 0"):
        bert_training_flops(num_layers=0, hidden_size=8)
