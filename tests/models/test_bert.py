"""BERT: equal to the stock model where it must be, seeded, truncated, and safe where a batch has no labels.

Comparisons with the stock model run in float64, where the order of a sum moves the result by 1e-15 or so: a tolerance
of 1e-10 then leaves room for nothing but order, and any real difference shows. Order does differ: the stock model sums
a weight's gradient over all positions, ours over the labelled ones.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BertForPreTraining

from dsparse.errors import UserError
from dsparse.models.bert import (
    ENCODER_MODULES,
    INIT_STD,
    PRESETS,
    BertForLabelledPreTraining,
    BertPreset,
    bert_config,
    build_bert,
    default_dropout,
    initialize_weights,
)
from dsparse.models.heads import UNLABELLED, BertPreTrainingLosses

SMALL = BertPreset(num_layers=2, hidden_size=32, num_heads=2)
VOCAB_SIZE = 61
Batch = dict[str, Tensor]


def small_bert(*, dropout: float = 0.0, seed: int = 0) -> BertForLabelledPreTraining:
    return build_bert(SMALL, vocab_size=VOCAB_SIZE, max_seq_length=16, dropout=dropout, seed=seed)


def stock_twin(model: BertForLabelledPreTraining) -> BertForPreTraining:
    """The `transformers` model with the same configuration, weights, dtype and mode."""
    twin = BertForPreTraining(model.config).to(model.dtype)
    twin.load_state_dict(model.state_dict(), strict=True)
    return twin.train(model.training)


def make_batch(*, seed: int = 0, padded: bool = True, labelled_share: float = 0.2) -> Batch:
    """Five sequences of up to 16 tokens; where padded, all but the first end early."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCAB_SIZE, (5, 16), generator=generator)
    lengths = torch.tensor([16, 9, 12, 5, 16]) if padded else torch.full((5,), 16)
    attention_mask = (torch.arange(16) < lengths[:, None]).long()
    is_labelled = (torch.rand(5, 16, generator=generator) < labelled_share) & attention_mask.bool()
    return {
        "input_ids": torch.where(is_labelled, 3, ids) * attention_mask,
        "attention_mask": attention_mask,
        "token_type_ids": (torch.arange(16) >= lengths[:, None] // 2).long() * attention_mask,
        "labels": torch.where(is_labelled, ids, UNLABELLED),
        "next_sentence_label": torch.tensor([0, 1, 1, 0, 1]),
    }


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing, missing
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_loss_and_gradients_equal_the_full_heads(padded: bool, dropout: float) -> None:
    ours = small_bert(dropout=dropout).double()
    stock = stock_twin(ours)
    batch = make_batch(padded=padded)

    torch.manual_seed(7)  # the same dropout in both
    our_loss = ours(**batch).loss
    torch.manual_seed(7)
    stock_loss = stock(**batch).loss
    our_loss.backward()
    stock_loss.backward()

    torch.testing.assert_close(our_loss, stock_loss, rtol=1e-10, atol=1e-12)
    expected = gradients(stock)
    actual = gradients(ours)
    assert actual.keys() == expected.keys()
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    assert all(g.abs().max() > 0 for g in actual.values() if g is not actual["bert.embeddings.word_embeddings.weight"])


def test_the_vocabulary_head_sees_labelled_positions_only() -> None:
    model = small_bert()
    batch = make_batch()
    rows: list[int] = []
    model.cls.predictions.decoder.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[0]))
    losses = model(**batch)
    num_labelled = int((batch["labels"] != UNLABELLED).sum())
    assert rows == [num_labelled]
    assert 0 < num_labelled < batch["labels"].numel() // 2
    assert losses.num_labelled.item() == num_labelled


def test_without_padding_no_mask_and_a_mask_of_ones_are_the_same() -> None:
    model = small_bert().double()
    batch = make_batch(padded=False)
    with_mask = model(**batch)
    without = model(**(batch | {"attention_mask": None}))
    torch.testing.assert_close(without.loss, with_mask.loss, rtol=1e-10, atol=1e-12)


def test_padding_has_no_influence() -> None:
    model = small_bert().double()
    batch = make_batch()
    other_padding = torch.where(batch["attention_mask"].bool(), batch["input_ids"], 17)
    torch.testing.assert_close(
        model(**(batch | {"input_ids": other_padding})).loss, model(**batch).loss, rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_batch_without_labels_has_no_word_loss_and_every_gradient(dtype: torch.dtype) -> None:
    model = small_bert().to(dtype)
    losses = model(**(make_batch(labelled_share=0.0)))
    losses.loss.backward()

    assert losses.num_labelled.item() == 0
    assert losses.mlm_loss.item() == 0
    assert losses.mlm_loss_sum.item() == 0
    assert losses.loss.item() == losses.nsp_loss.item() > 0
    # Every parameter must have a gradient: one that never gets it would leave the other ranks waiting in a reduction.
    for name, gradient in gradients(model).items():
        assert gradient.isfinite().all(), name
        if name.startswith("cls.predictions."):
            assert not gradient.any(), name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_low_precision_losses_are_fp32_and_near(dtype: torch.dtype, tolerance: float) -> None:
    # Tolerance: a few roundings of 2^-9 (bf16) or 2^-12 (fp16), relative, on activations of order 1.
    model = small_bert()
    batch = make_batch()
    expected = model(**batch)
    losses = model.to(dtype)(**batch)
    losses.loss.backward()
    for name in ("loss", "mlm_loss", "nsp_loss", "mlm_loss_sum"):
        value = getattr(losses, name)
        assert value.dtype == torch.float32, name
        torch.testing.assert_close(value, getattr(expected, name), rtol=tolerance, atol=tolerance, msg=name)
    for name, gradient in gradients(model).items():
        assert gradient.dtype == dtype and gradient.isfinite().all(), name


def test_only_the_loss_carries_a_gradient() -> None:
    losses = small_bert()(**make_batch())
    # DeepSpeed looks for tensors in tuples, and counts one backward pass for each that requires a gradient.
    assert isinstance(losses, tuple) and isinstance(losses, BertPreTrainingLosses)
    assert [n for n, value in losses._asdict().items() if value is not None and value.requires_grad] == ["loss"]
    torch.testing.assert_close(losses.loss.detach(), losses.mlm_loss + losses.nsp_loss, rtol=0, atol=0)


def test_evaluation_sums_make_an_exact_mean_and_accuracy() -> None:
    model = small_bert().double().eval()
    batches = [make_batch(seed=seed, labelled_share=share) for seed, share in [(1, 0.1), (2, 0.5), (3, 0.0)]]
    whole: Batch = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
    with torch.no_grad():
        parts = [model(**batch) for batch in batches]
        together = model(**whole)
        logits = stock_twin(model)(**whole)

    num_labelled = sum(part.num_labelled for part in parts)
    torch.testing.assert_close(sum(p.mlm_loss_sum for p in parts) / num_labelled, together.mlm_loss, rtol=1e-10, atol=0)
    is_labelled = whole["labels"] != UNLABELLED
    right = (logits.prediction_logits.argmax(-1) == whole["labels"]) & is_labelled
    assert sum(part.num_mlm_correct for part in parts) == together.num_mlm_correct == right.sum()
    right = logits.seq_relationship_logits.argmax(-1) == whole["next_sentence_label"]
    assert sum(part.num_nsp_correct for part in parts) == together.num_nsp_correct == right.sum()


def test_with_a_common_divisor_the_gradient_does_not_depend_on_the_cuts() -> None:
    """Micro-batches with different numbers of labels add up to the gradient of the whole batch."""
    model = small_bert().double()
    batches = [make_batch(seed=seed, labelled_share=share) for seed, share in [(1, 0.1), (2, 0.5), (3, 0.0)]]
    whole: Batch = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
    model(**whole).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    divisor = torch.stack([(b["labels"] != UNLABELLED).sum() for b in batches]).double().mean()
    for batch in batches:
        (model(**batch, mlm_divisor=divisor).loss / len(batches)).backward()
    for name, gradient in gradients(model).items():
        # fp64; sums are made in another order.
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-15)


def test_accuracy_counts_the_right_guesses_and_is_left_out_of_training() -> None:
    model = small_bert()
    batch = make_batch()
    assert model(**batch).num_mlm_correct is None
    assert model(**batch).num_nsp_correct is None
    with torch.no_grad():
        model.cls.predictions.bias[7] = 1e4  # token 7 is now always the guess
        batch["labels"][batch["labels"] != UNLABELLED] = 7
        losses = model.eval()(**batch)
    assert losses.num_mlm_correct == losses.num_labelled > 0


def test_state_dict_loads_into_the_stock_model_and_back(tmp_path: Path) -> None:
    model = small_bert().eval()
    batch = make_batch()
    expected = model(**batch).loss
    torch.testing.assert_close(stock_twin(model)(**batch).loss, expected)

    model.save_pretrained(tmp_path)
    loaded = BertForPreTraining.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(**batch).loss, expected)

    other = small_bert(seed=1).eval()
    other.load_state_dict(loaded.state_dict(), strict=True)
    torch.testing.assert_close(other(**batch).loss, expected, rtol=0, atol=0)


def test_decoder_is_tied_to_the_embedding_and_its_bias_to_the_heads() -> None:
    model = small_bert()
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert model.cls.predictions.decoder.bias is model.cls.predictions.bias
    names = [name for name, _ in model.named_parameters()]
    assert "bert.embeddings.word_embeddings.weight" in names
    assert not any(name.startswith("cls.predictions.decoder") for name in names)


@pytest.mark.parametrize(
    ("name", "num_layers", "hidden_size", "num_heads", "num_parameters"),
    [
        # Counts of BertForPreTraining with 30522 tokens and 512 positions, tied weights once.
        ("tiny", 2, 128, 2, 4_433_468),
        ("mini", 4, 256, 4, 11_267_900),
        ("small", 4, 512, 8, 29_058_876),
        ("medium", 8, 512, 8, 41_668_412),
        ("base", 12, 768, 12, 110_106_428),
        ("large", 24, 1024, 16, 336_226_108),
    ],
)
def test_presets(name: str, num_layers: int, hidden_size: int, num_heads: int, num_parameters: int) -> None:
    config = bert_config(name, vocab_size=30522, max_seq_length=512, dropout=0.0)
    with torch.device("meta"):  # shapes without memory
        model = BertForLabelledPreTraining(config)
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (
        num_layers, hidden_size, num_heads,
    )  # fmt: skip
    assert config.intermediate_size == 4 * hidden_size
    assert model.config._attn_implementation == "sdpa"
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    matrices = [p for n, p in model.named_parameters() if n.startswith(ENCODER_MODULES[0]) and p.dim() == 2]
    assert len(matrices) == 6 * num_layers
    assert sum(matrix.numel() for matrix in matrices) == PRESETS[name].num_encoder_weights


def test_dropout_is_for_models_larger_than_small() -> None:
    rates = {name: default_dropout(name) for name in PRESETS}
    assert rates == {"tiny": 0.0, "mini": 0.0, "small": 0.0, "medium": 0.1, "base": 0.1, "large": 0.1}
    model = small_bert(dropout=0.25)
    rates_in_model = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates_in_model == {0.25}
    assert model.config.attention_probs_dropout_prob == 0.25


def test_a_seed_is_a_model_whatever_the_global_random_state() -> None:
    torch.manual_seed(1)
    first = small_bert(seed=3)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = small_bert(seed=3)
    assert torch.get_rng_state().equal(before)
    other = small_bert(seed=4)
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), other.parameters(), strict=True):
        assert a.equal(b), name
        if a.dim() == 2:
            assert not a.equal(c), name


def test_a_seed_is_a_model_whatever_the_number_of_threads() -> None:
    num_threads = torch.get_num_threads()
    try:
        models = []
        for n in (1, 3):
            torch.set_num_threads(n)
            models.append(build_bert("tiny", vocab_size=5003, dropout=0.0, seed=0))
    finally:
        torch.set_num_threads(num_threads)
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert a.equal(b), name


def test_a_weights_draw_depends_on_its_own_name_and_shape_only() -> None:
    model = small_bert()
    wider = build_bert(SMALL, vocab_size=2 * VOCAB_SIZE, max_seq_length=32, dropout=0.1, seed=0)
    assert model.bert.encoder.layer[1].output.dense.weight.equal(wider.bert.encoder.layer[1].output.dense.weight)
    attention = model.bert.encoder.layer[0].attention.self
    assert not attention.query.weight.equal(attention.key.weight)


def test_initial_weights_are_known_answers() -> None:
    # A change here changes every seeded run.
    weight = small_bert().bert.encoder.layer[0].attention.self.query.weight.flatten()[:4]
    torch.testing.assert_close(
        weight.detach(), torch.tensor([0.026729817, -0.012549635, -0.014860376, 0.005304776]), rtol=1e-6, atol=0
    )


def test_initial_weights_are_a_truncated_normal() -> None:
    model = build_bert("tiny", vocab_size=8192, dropout=0.0, seed=5)
    # Standard deviation of a standard normal that is cut at two: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)).
    truncated_std = 0.87962566 * INIT_STD
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            assert parameter.abs().max() <= 2 * INIT_STD, name
            # Five standard errors, as large as for a normal that is not truncated.
            standard_error = truncated_std / (2 * parameter.numel()) ** 0.5
            assert parameter.std().item() == pytest.approx(truncated_std, abs=5 * standard_error), name
        elif "LayerNorm.weight" in name:
            assert parameter.eq(1).all(), name
        else:
            assert parameter.eq(0).all(), name
    table = model.bert.embeddings.word_embeddings.weight.detach().flatten()
    # The share within one standard deviation of the untruncated normal: .6827 / .9545, over a million draws.
    assert table.abs().lt(INIT_STD).double().mean().item() == pytest.approx(0.71524, abs=0.0025)


def test_initialization_overwrites_what_was_there() -> None:
    fresh, used = small_bert(seed=2), small_bert(seed=9)
    with torch.no_grad():
        for parameter in used.parameters():
            parameter.fill_(3.0)
    initialize_weights(used, seed=2)
    for (name, a), b in zip(fresh.named_parameters(), used.parameters(), strict=True):
        assert a.equal(b), name


def test_a_model_learns_a_batch() -> None:
    model = small_bert()
    batch = make_batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    start = model(**batch)
    assert start.mlm_loss.item() == pytest.approx(torch.tensor(float(VOCAB_SIZE)).log().item(), abs=0.1)
    for _ in range(80):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    end = model.eval()(**batch)
    assert end.mlm_loss < 0.1 * start.mlm_loss
    assert end.num_mlm_correct == end.num_labelled
    assert end.num_nsp_correct == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "huge"}, r"out of tiny, mini, small, medium, base, large\. Got 'huge'"),
        ({"vocab_size": 0}, r"at least 1 token\. Got 0 and 128"),
        ({"max_seq_length": 0}, r"at least 1 token\. Got 61 and 0"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\)\. Got 1.0"),
        ({"dropout": float("nan")}, r"dropout in \[0, 1\)\. Got nan"),
        ({"pad_token_id": VOCAB_SIZE}, r"padding token in the vocabulary of 61\. Got 61"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_bert(**({"preset": "tiny", "vocab_size": VOCAB_SIZE, "dropout": 0.0, "seed": 0} | arguments))


def test_a_size_that_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="hidden size 30 and 4 heads"):
        BertPreset(num_layers=1, hidden_size=30, num_heads=4)
    with pytest.raises(UserError, match="at least 1"):
        BertPreset(num_layers=0, hidden_size=32, num_heads=4)
