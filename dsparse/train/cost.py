"""What a training step costs, by the patterns in force: the encoder's FLOPs as the paper counts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from dsparse.flops import attention_training_flops, weights_training_flops
from dsparse.models.bert import ENCODER_MODULES, find_preset
from dsparse.models.selection import linear_weights, matches


@dataclass(frozen=True, kw_only=True)
class EncoderCost:
    """FLOPs of one optimizer step; heads and embeddings are left out, see `dsparse.flops`."""

    shapes: Mapping[str, tuple[int, int]]
    """(O, I) of the encoder's linear weights, by parameter name."""
    attention_flops: float
    """Of all sequences of one step; sparsity does not touch them."""
    num_tokens: int
    """Tokens of one step over all ranks."""

    @classmethod
    def of_bert(cls, model: nn.Module, preset: str, *, seq_length: int, num_sequences: int) -> EncoderCost:
        """The cost of steps of `num_sequences` sequences; to be asked before ZeRO partitions the model."""
        size = find_preset(preset)
        weights = linear_weights(model)
        return cls(
            shapes={
                name: (weight.shape[0], weight.shape[1])
                for name, weight in weights.items()
                if any(matches(one, name) for one in ENCODER_MODULES)
            },
            attention_flops=attention_training_flops(
                num_layers=size.num_layers,
                hidden_size=size.hidden_size,
                seq_length=seq_length,
                num_sequences=num_sequences,
            ),
            num_tokens=seq_length * num_sequences,
        )

    def of_step(self, engine: Any) -> float:
        """FLOPs of a step with the engine's patterns; all weights count as dense without patterns."""
        return self.of_densities({name: pattern.density for name, pattern in getattr(engine, "patterns", {}).items()})

    def of_densities(self, densities: Mapping[str, float]) -> float:
        """FLOPs of a step with weights of these densities, by parameter name; the others count as dense."""
        weights = {name: (*shape, densities.get(name, 1.0)) for name, shape in self.shapes.items()}
        return weights_training_flops(weights, num_tokens=self.num_tokens) + self.attention_flops
