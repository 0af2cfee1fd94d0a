"""Floating-point operations of a training step, counted the way the paper counts them (arXiv 2108.06277).

One multiply-add is 2 FLOPs. A matrix product is done three times in training: forward, for the input's gradient and
for the weight's. A linear layer with O outputs, I inputs and a share `density` of active blocks therefore costs
3 * 2 * I * O * density for each token. Attention multiplies no weights: its scores and its weighted sum are two
T x T x H products per layer and sequence, which sparsity does not touch. So at 90 % sparsity and 128 tokens attention
is 22 % of the FLOPs of Base, 29 % of Medium and 62 % of Tiny.

Left out of the encoder's count, as in the paper: embeddings, biases, LayerNorm, softmax, GELU, dropout, the optimizer,
and the heads. The heads (pooler, next sentence, masked words) have a count of their own: dense whatever the sparsity,
they outweigh the encoder of a small sparse model with a large vocabulary.

Counts are floats: exact up to 2**53, and a run of many steps goes beyond every integer type that logs can hold.
"""

from __future__ import annotations

from collections.abc import Mapping

from dsparse.errors import UserError

MATMULS_PER_WEIGHT = 3
"""Products per weight and token in training: forward, input gradient, weight gradient."""


def linear_training_flops(out_features: int, in_features: int, *, num_tokens: int, density: float = 1.0) -> float:
    """FLOPs of one linear layer, forward and backward, over `num_tokens` tokens.

    Args:
        out_features: rows O of the [O, I] weight.
        in_features: columns I of the weight.
        num_tokens: tokens that go through the layer; padding counts, it is multiplied like anything else.
        density: active share of the weight, in [0, 1].
    """
    _expect_positive(out_features=out_features, in_features=in_features)
    _expect_not_negative(num_tokens=num_tokens)
    _expect_density("the linear layer", density)
    return MATMULS_PER_WEIGHT * 2.0 * in_features * out_features * num_tokens * density


def weights_training_flops(weights: Mapping[str, tuple[int, int, float]], *, num_tokens: int) -> float:
    """FLOPs of the linear layers of any model, forward and backward, over `num_tokens` tokens.

    Args:
        weights: (O, I, density) of each weight, by name; a dense weight has density 1. A weight that is used twice
            for each token is to be listed twice.
        num_tokens: tokens that go through each of the layers.
    """
    _expect_not_negative(num_tokens=num_tokens)
    total = 0.0
    for name, (out_features, in_features, density) in weights.items():
        _expect_density(name, density)
        total += linear_training_flops(out_features, in_features, num_tokens=num_tokens, density=density)
    return total


def attention_training_flops(
    *, num_layers: int, hidden_size: int, seq_length: int, num_sequences: int = 1, causal: bool = False
) -> float:
    """FLOPs of the attention products (scores, weighted sum), forward and backward.

    Args:
        num_layers: layers with attention.
        hidden_size: H, all heads together.
        seq_length: T tokens per sequence; grows with its square.
        num_sequences: sequences of that length.
        causal: whether a token sees only those before it, at half the products.
    """
    _expect_positive(num_layers=num_layers, hidden_size=hidden_size, seq_length=seq_length)
    _expect_not_negative(num_sequences=num_sequences)
    forward = 2 * 2.0 * seq_length**2 * hidden_size * num_layers * num_sequences
    return MATMULS_PER_WEIGHT * (forward / 2 if causal else forward)


def bert_training_flops(
    *,
    num_layers: int,
    hidden_size: int,
    intermediate_size: int | None = None,
    seq_length: int = 128,
    num_sequences: int = 1,
    density: float = 1.0,
) -> float:
    """FLOPs of a BERT encoder, forward and backward: its linear layers at `density`, and attention.

    This is the paper's number for `num_sequences=1, seq_length=128`: 8.33e9 for Base and 2.738e9 for Medium at 90 %
    sparsity, 10.07e9 for a dense Small. One optimizer step has `num_sequences` = the global batch.

    Args:
        num_layers: layers of the encoder.
        hidden_size: H; four [H, H] weights per layer.
        intermediate_size: width F of the feed-forward block, [F, H] and [H, F]; 4 * H unless given.
        seq_length: T tokens per sequence, padding included.
        num_sequences: sequences of that length.
        density: active share of every encoder weight, in [0, 1].
    """
    _expect_positive(num_layers=num_layers)
    ffn = 4 * hidden_size if intermediate_size is None else intermediate_size
    num_tokens = seq_length * num_sequences
    linears = 4 * linear_training_flops(hidden_size, hidden_size, num_tokens=num_tokens, density=density)
    linears += 2 * linear_training_flops(ffn, hidden_size, num_tokens=num_tokens, density=density)
    return num_layers * linears + attention_training_flops(
        num_layers=num_layers, hidden_size=hidden_size, seq_length=seq_length, num_sequences=num_sequences
    )


def bert_heads_training_flops(*, hidden_size: int, vocab_size: int, num_labelled: int, num_sequences: int) -> float:
    """FLOPs of BERT's pre-training heads, forward and backward, which the paper's numbers leave out.

    The masked-word head ([H, H] and [V, H]) sees the labelled positions, the pooler ([H, H]) and the next-sentence
    head ([2, H]) one position per sequence. For a head that is computed at every position pass
    `num_labelled = num_sequences * seq_length`.
    """
    _expect_not_negative(num_labelled=num_labelled, num_sequences=num_sequences)
    words = linear_training_flops(hidden_size, hidden_size, num_tokens=num_labelled)
    words += linear_training_flops(vocab_size, hidden_size, num_tokens=num_labelled)
    sentences = linear_training_flops(hidden_size, hidden_size, num_tokens=num_sequences)
    sentences += linear_training_flops(2, hidden_size, num_tokens=num_sequences)
    return words + sentences


def _expect_positive(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise UserError(f"Expected {name} to be at least 1. Got {value}.")


def _expect_not_negative(**counts: int) -> None:
    for name, value in counts.items():
        if value < 0:
            raise UserError(f"Expected {name} to be 0 or more. Got {value}.")


def _expect_density(name: str, density: float) -> None:
    # The negated form also refuses NaN.
    if not 0.0 <= density <= 1.0:
        raise UserError(f"Expected the density of {name} in [0, 1]. Got {density}.")
