"""BERT for pre-training, in the paper's sizes: the model of `transformers` with a vocabulary head that skips the rest.

The network, its parameter names and its state dict are those of `transformers.BertForPreTraining` with SDPA
attention, so a trained model loads there unchanged. Three things differ, none of which a state dict can see:

- the masked-word head runs on labelled positions only (`heads.py`), with the same loss and gradients;
- weights are drawn from a normal truncated at two standard deviations, as in the BERT of the paper, each parameter
  from its own random stream, so that the draw depends on the seed and the parameter's name and on nothing else;
- `forward` returns losses and counts, not logits.

Sparsity is no business of this file: a sparse model starts from the same weights, not rescaled (arXiv 2108.06277),
and the engine keeps the pattern.

Shapes: B = sequences, T = tokens per sequence, N = labelled positions of the batch, V = vocabulary, H = hidden.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForPreTraining

from dsparse.errors import UserError
from dsparse.models.heads import (
    BertPreTrainingLosses,
    labelled_positions,
    num_correct,
    summed_cross_entropy,
)

INIT_STD = 0.02
"""Standard deviation of the normal that weights are drawn from, before it is truncated."""
INIT_BOUND_STDS = 2.0
"""No weight starts further from 0 than this many standard deviations."""

ENCODER_MODULES = ["bert.encoder"]
"""What the paper makes sparse, as the `"modules"` of a DeepSpeed configuration: the encoder's six matrices per layer.

Query, key, value, attention output and both of the feed-forward block; not embeddings, pooler or heads.
"""


@dataclass(frozen=True, slots=True)
class BertPreset:
    """The size of a BERT encoder."""

    num_layers: int
    hidden_size: int
    num_heads: int

    def __post_init__(self) -> None:
        if min(self.num_layers, self.hidden_size, self.num_heads) < 1:
            raise UserError(f"Expected layers, hidden size and heads of a BERT to be at least 1. Got {self}.")
        if self.hidden_size % self.num_heads:
            raise UserError(
                f"Expected a hidden size that the number of heads divides. "
                f"Got hidden size {self.hidden_size} and {self.num_heads} heads."
            )

    @property
    def intermediate_size(self) -> int:
        """Width of the feed-forward block, four times the hidden size."""
        return 4 * self.hidden_size

    @property
    def num_encoder_weights(self) -> int:
        """Entries of the encoder's matrices, biases and LayerNorms left out."""
        attention = 4 * self.hidden_size**2
        feed_forward = 2 * self.hidden_size * self.intermediate_size
        return self.num_layers * (attention + feed_forward)


# Sizes of arXiv 1908.08962 (tiny to medium) and of BERT itself (base, large).
PRESETS: dict[str, BertPreset] = {
    "tiny": BertPreset(num_layers=2, hidden_size=128, num_heads=2),
    "mini": BertPreset(num_layers=4, hidden_size=256, num_heads=4),
    "small": BertPreset(num_layers=4, hidden_size=512, num_heads=8),
    "medium": BertPreset(num_layers=8, hidden_size=512, num_heads=8),
    "base": BertPreset(num_layers=12, hidden_size=768, num_heads=12),
    "large": BertPreset(num_layers=24, hidden_size=1024, num_heads=16),
}
"""The sizes that have a name."""


class BertForLabelledPreTraining(BertForPreTraining):
    """`transformers.BertForPreTraining` whose vocabulary head is computed on labelled positions only."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor,
        labels: Tensor,
        next_sentence_label: Tensor,
        mlm_divisor: Tensor | None = None,
    ) -> BertPreTrainingLosses:
        """Losses of one batch.

        Args:
            input_ids: [B, T] int64, tokens with some of them masked.
            attention_mask: [B, T], non-zero where there is a token, zero at padding; None says that the batch has
                no padding, which lets SDPA choose among more kernels. Every sequence needs a token to attend to.
            token_type_ids: [B, T] int64, 0 in the first segment, 1 in the second.
            labels: [B, T] int64, the original token where the loss is taken, -100 elsewhere. A batch without any
                label has a masked-word loss of 0, and zeros as the gradient of that head's own parameters.
            next_sentence_label: [B] int64, 0 where the second segment follows the first, 1 where it is random.
            mlm_divisor: [], what the sum of the masked-word losses is divided by; None takes the number of labelled
                positions of this batch. With the mean number over all micro-batches and ranks of a step, the step's
                gradient is that of the mean over its labelled positions, however the step is cut into batches.
        """
        # Before the encoder, while little is queued on the device: finding the positions waits for it.
        positions_N = labelled_positions(labels)
        # The shape [B, 1, 1, T] is taken as it is. A [B, T] mask would be asked whether it is all ones, which waits
        # for a GPU, and be expanded to [B, 1, T, T].
        mask_B11T = None if attention_mask is None else attention_mask[:, None, None, :].bool()
        encoded = self.bert(input_ids, attention_mask=mask_B11T, token_type_ids=token_type_ids)

        # index_select rather than indexing: its gradient is a plain scatter of rows, without a sort.
        hidden_NH = encoded.last_hidden_state.flatten(0, 1).index_select(0, positions_N)
        labels_N = labels.flatten().index_select(0, positions_N)
        words_NV = self.cls.predictions(hidden_NH)
        mlm_loss_sum = summed_cross_entropy(words_NV, labels_N)
        mlm_loss = mlm_loss_sum / (max(positions_N.numel(), 1) if mlm_divisor is None else mlm_divisor)

        next_B2 = self.cls.seq_relationship(encoded.pooler_output)
        nsp_loss = summed_cross_entropy(next_B2, next_sentence_label) / next_sentence_label.numel()
        # A look at every logit for the accuracy is for evaluation only: training should not pay for it.
        return BertPreTrainingLosses(
            loss=mlm_loss + nsp_loss,
            mlm_loss=mlm_loss.detach(),
            nsp_loss=nsp_loss.detach(),
            # full() fills on the device; tensor() would copy from the host.
            num_labelled=torch.full((), positions_N.numel(), dtype=torch.int64, device=labels.device),
            mlm_loss_sum=mlm_loss_sum.detach(),
            num_mlm_correct=None if self.training else num_correct(words_NV, labels_N),
            num_nsp_correct=None if self.training else num_correct(next_B2, next_sentence_label),
        )


def find_preset(preset: str | BertPreset) -> BertPreset:
    """The preset of that name; a `BertPreset` is its own. Raises `UserError` for an unknown name."""
    if isinstance(preset, BertPreset):
        return preset
    if preset not in PRESETS:
        raise UserError(f"Expected a BERT preset out of {', '.join(PRESETS)}. Got {preset!r}.")
    return PRESETS[preset]


def default_dropout(preset: str | BertPreset) -> float:
    """The paper's dropout: 0.1 for models larger than Small, none for Small and below."""
    larger_than_small = find_preset(preset).num_encoder_weights > PRESETS["small"].num_encoder_weights
    return 0.1 if larger_than_small else 0.0


def bert_config(
    preset: str | BertPreset, *, vocab_size: int, max_seq_length: int = 128, dropout: float, pad_token_id: int = 0
) -> BertConfig:
    """The `transformers` configuration of a preset.

    Args:
        preset: a name out of `PRESETS`, or a size of one's own.
        vocab_size: tokens in the vocabulary.
        max_seq_length: longest sequence in tokens; the number of position embeddings.
        dropout: of hidden states and of attention probabilities, in [0, 1); see `default_dropout`.
        pad_token_id: the padding token of the vocabulary.

    Raises:
        UserError: for a value out of range.
    """
    size = find_preset(preset)
    if vocab_size < 1 or max_seq_length < 1:
        raise UserError(
            f"Expected a vocabulary and a sequence length of at least 1 token. Got {vocab_size} and {max_seq_length}."
        )
    if not 0.0 <= dropout < 1.0:
        raise UserError(f"Expected a dropout in [0, 1). Got {dropout}.")
    if not 0 <= pad_token_id < vocab_size:
        raise UserError(f"Expected a padding token in the vocabulary of {vocab_size}. Got {pad_token_id}.")
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=size.hidden_size,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        intermediate_size=size.intermediate_size,
        max_position_embeddings=max_seq_length,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=INIT_STD,
        pad_token_id=pad_token_id,
        attn_implementation="sdpa",
    )


def build_bert(
    preset: str | BertPreset,
    *,
    vocab_size: int,
    max_seq_length: int = 128,
    dropout: float,
    seed: int,
    pad_token_id: int = 0,
) -> BertForLabelledPreTraining:
    """A freshly initialised BERT in fp32 on the CPU, in training mode.

    The same arguments give the same weights bit for bit. The global random state is neither read nor changed. For
    the arguments other than `seed`, and the errors, see `bert_config`.
    """
    config = bert_config(
        preset, vocab_size=vocab_size, max_seq_length=max_seq_length, dropout=dropout, pad_token_id=pad_token_id
    )
    # The constructor draws weights of its own, which are drawn over; the fork keeps that from the caller's state.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        model = BertForLabelledPreTraining(config)
    initialize_weights(model, seed=seed)
    return model.train()


@torch.no_grad()
def initialize_weights(model: nn.Module, *, seed: int) -> None:
    """Draws every `nn.Linear` and `nn.Embedding` weight afresh from the truncated normal; biases 0, LayerNorm 1 and 0.

    Each weight has a generator of its own, seeded by `seed` and the weight's name: the order of modules, other
    parameters' sizes and the global random state have no influence. A tied weight is drawn once, under its first
    name. The padding token's embedding is drawn like any other. Expects weights that are whole and on the CPU.
    """
    drawn: set[Tensor] = set()
    for module_name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, nn.Linear | nn.Embedding):
            if module.weight not in drawn:
                drawn.add(module.weight)
                module.weight.copy_(_truncated_normal(module.weight.shape, seed=seed, name=f"{module_name}.weight"))
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()


def _truncated_normal(shape: torch.Size, *, seed: int, name: str) -> Tensor:
    """Draws from the truncated normal by its inverse distribution function, [*shape] float64.

    `nn.init.trunc_normal_` draws again until nothing is out of bounds, ten times slower for an embedding table, and
    its algorithm has changed between releases of torch. In float64 the error of `erfinv`, which may depend on the
    number of threads, is rounded away.
    """
    # The number of the stream must be the same in every process: Python's own hash is salted.
    stream = int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "big") >> 1
    generator = torch.Generator().manual_seed(stream)
    edge = math.erf(INIT_BOUND_STDS / math.sqrt(2))
    uniform = torch.empty(shape, dtype=torch.float64).uniform_(-edge, edge, generator=generator)
    return uniform.erfinv_().mul_(math.sqrt(2) * INIT_STD)
