"""`dsparse.initialize` stands where `deepspeed.initialize` stood."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.distributed.cells import (
    Batches,
    Cell,
    backward,
    full_gradients,
    full_states,
    make_engine,
    pattern_numbers,
    toy_model,
)
from tests.distributed.rank_pool import Failure, RankPool

pytestmark = pytest.mark.distributed


def test_signature_is_deepspeeds() -> None:
    import deepspeed

    import dsparse

    ours, theirs = (inspect.signature(f).parameters for f in (dsparse.initialize, deepspeed.initialize))
    assert list(ours) == list(theirs)
    assert [p.default for p in ours.values()] == [p.default for p in theirs.values()]


def dense_losses(through_dsparse: bool, stage: int, precision: str) -> dict[str, Any]:
    """Losses and final weights of a run without the block."""
    import deepspeed

    import dsparse

    cell = Cell(stage, precision)
    config = cell.config()
    del config["dynamic_sparsity"]
    model = toy_model()
    initialize = dsparse.initialize if through_dsparse else deepspeed.initialize
    returned = initialize(model=model, config=config, model_parameters=model.parameters())
    engine = returned[0]
    batches = Batches(cell.dtype)
    losses = []
    for _ in range(5):
        losses.append(float(backward(engine, batches, 1)))
        engine.step()
    result = {"losses": losses, "engine": type(engine).__name__, "returned": len(returned)}
    engine.destroy()
    return result


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_without_the_block_it_is_plain_deepspeed_bit_for_bit(two_ranks: RankPool, stage: int, precision: str) -> None:
    ours = two_ranks.run(dense_losses, True, stage, precision)
    theirs = two_ranks.run(dense_losses, False, stage, precision)
    assert ours == theirs
    assert ours[0]["engine"] == "DeepSpeedEngine"


def returned_types(as_path: str | None) -> dict[str, Any]:
    """What `initialize` returns for a sparse run, its configuration given in one of three ways."""
    import deepspeed

    import dsparse

    cell = Cell(1, "fp32")
    config = cell.config() | {
        "scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": 6, "warmup_num_steps": 2}}
    }
    del config["dynamic_sparsity"]["total_steps"]
    data = torch.utils.data.TensorDataset(torch.randn(16, 24), torch.randn(16, 8))
    kwargs: dict[str, Any] = {"config": config}
    if as_path is not None:
        Path(as_path).write_text(json.dumps(config))
        kwargs = {"args": SimpleNamespace(deepspeed_config=as_path, local_rank=deepspeed.comm.get_rank())}
    before = json.dumps(config)
    model = toy_model()
    engine, optimizer, loader, scheduler = dsparse.initialize(
        model=model, model_parameters=model.parameters(), training_data=data, **kwargs
    )
    result = {
        "is_sparse": isinstance(engine, dsparse.SparseEngine) and isinstance(engine, deepspeed.DeepSpeedEngine),
        "optimizer": optimizer is engine.optimizer,
        "loader": type(loader).__name__,
        "scheduler": type(scheduler).__name__,
        "total_steps": engine.sparsity_config.total_steps,
        "config_untouched": before == json.dumps(config),
    }
    engine.destroy()
    return result


@pytest.mark.parametrize("way", ["dict", "args"])
def test_returns_what_deepspeed_returns(two_ranks: RankPool, tmp_path: Path, way: str) -> None:
    path = str(tmp_path / "ds.json") if way == "args" else None
    for result in two_ranks.run(returned_types, path):
        assert result == {
            "is_sparse": True,
            "optimizer": True,
            "loader": "DeepSpeedDataLoader",
            "scheduler": "WarmupDecayLR",
            "total_steps": 6,
            "config_untouched": True,
        }


def causal_lm_run(stage: int) -> dict[str, Any]:
    """A small causal LM of `transformers`, sparse by the import and the block alone."""
    from transformers import LlamaConfig, LlamaForCausalLM

    import dsparse

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=128,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                tie_word_embeddings=True,
            )
        )
    config = Cell(stage, "fp32").config(sparsity=0.8, block_size=8, total_steps=12, updates=4)
    config["optimizer"]["params"]["lr"] = 3e-3
    engine = dsparse.initialize(model=model, config=config, model_parameters=model.parameters())[0]
    tokens = torch.randint(0, 128, (4, 16), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(12):
        loss = engine(input_ids=tokens, labels=tokens).loss
        engine.backward(loss)
        engine.step()
        losses.append(float(loss.detach()))
    engine.verify_sparsity()
    result = {
        "names": list(engine.patterns),
        "densities": [pattern.density for pattern in engine.patterns.values()],
        "updates": engine.num_pattern_updates,
        "coverage": list(engine.coverage.values()),
        "losses": losses,
        "patterns": pattern_numbers(engine),
    }
    engine.destroy()
    return result


@pytest.mark.parametrize("stage", [1, 3])
def test_any_model_of_linear_layers_becomes_sparse(two_ranks: RankPool, stage: int) -> None:
    first, second = two_ranks.run(causal_lm_run, stage)
    assert first["patterns"] == second["patterns"]
    # 7 linear layers in each of 2 blocks; the head shares its weight with the embedding and stays dense.
    assert len(first["names"]) == 14
    assert not any("lm_head" in name or "embed" in name for name in first["names"])
    # 0.2 of 16 or 32 blocks, rounded.
    assert all(density in (3 / 16, 6 / 32, 2 / 8) for density in first["densities"])
    assert first["updates"] == 3
    assert first["losses"][-1] < first["losses"][0]
    assert all(covered > 0.2 for covered in first["coverage"])


def zero_init_run(partitioned: bool) -> dict[str, Any]:
    """A model that `deepspeed.zero.Init` partitions while it is made, against the ordinary way."""
    import deepspeed

    cell = Cell(3, "fp32")
    if partitioned:
        with deepspeed.zero.Init(config_dict_or_path=cell.config()), torch.random.fork_rng():
            torch.manual_seed(0)
            model: nn.Module = type(toy_model())()
    else:
        model = toy_model()
    engine = make_engine(cell, model)
    batches, losses, outside = Batches(torch.float32), [], 0.0
    for _ in range(5):
        losses.append(float(backward(engine, batches, 1)))
        outside += sum(
            float(gradient[~engine.patterns[name].mask()].abs().sum())
            for name, gradient in full_gradients(engine).items()
        )
        engine.step()
    engine.verify_sparsity()
    result = {"losses": losses, "outside": outside, "patterns": pattern_numbers(engine)}
    engine.destroy()
    return result


def test_models_made_under_zero_init(two_ranks: RankPool) -> None:
    ours, theirs = two_ranks.run(zero_init_run, True), two_ranks.run(zero_init_run, False)
    assert ours == theirs
    assert ours[0]["outside"] == 0


def refused(change: dict[str, Any], optimizer: str | None) -> None:
    """Asks for a combination that is refused."""
    import dsparse

    model = toy_model()
    config = Cell(1, "fp32").config()
    for path, value in change.items():
        *parents, key = path.split("/")
        section = config
        for parent in parents:
            section = section.setdefault(parent, {})
        section[key] = value
    made = None
    if optimizer is not None:
        del config["optimizer"]
        made = getattr(torch.optim, optimizer)(model.parameters(), lr=1e-3)
    dsparse.initialize(model=model, config=config, model_parameters=model.parameters(), optimizer=made)


@pytest.mark.parametrize(
    ("change", "optimizer", "named"),
    [
        ({"zero_optimization/offload_optimizer/device": "nvme"}, None, "nvme"),
        ({"zero_optimization/zero_quantized_gradients": True}, None, "zero_quantized_gradients"),
        ({"zero_optimization/zero_hpz_partition_size": 2}, None, "zero_hpz_partition_size"),
        ({"bf16/enabled": True, "data_types/grad_accum_dtype": "fp32"}, None, "BF16_Optimizer"),
        ({"bf16/enabled": True, "data_types/grad_accum_dtype": "torch.float32"}, None, "BF16_Optimizer"),
        ({"zero_optimization/round_robin_gradients": True}, None, "round_robin_gradients"),
        ({"zero_optimization/offload_optimizer": {"device": "cpu", "ratio": 0.5}}, None, "offload_optimizer.ratio"),
        ({"optimizer/params/eps": 0}, None, "eps = 0"),
        ({"checkpoint/load_universal": True}, None, "checkpoint.load_universal"),
        ({"checkpoint/writer": {"type": "fast", "decoupled": True}}, None, "decoupled"),
        (
            {"scheduler": {"type": "WarmupLR", "params": {}}, "dynamic_sparsity/learning_rate_rule": "paper"},
            None,
            "scheduler.params.warmup_max_lr",
        ),
        ({"optimizer/type": "Lamb"}, None, "Lamb"),
        ({"optimizer/type": "OneBitAdam"}, None, "OneBitAdam"),
        ({"hybrid_engine/enabled": True}, None, "hybrid_engine"),
        ({}, "Adagrad", "torch.optim.adagrad.Adagrad"),
        ({}, "RMSprop", "torch.optim.rmsprop.RMSprop"),
        ({"dynamic_sparsity/sparsity": 1.0}, None, "dynamic_sparsity.sparsity"),
        ({"dynamic_sparsity/sparcity": 0.5}, None, "did you mean 'sparsity'"),
        ({"dynamic_sparsity/block_size": 16}, None, "'up.weight'"),
        ({"dynamic_sparsity/updates": 100}, None, "no more pattern updates than steps"),
        ({"dynamic_sparsity/modules": ["encoder"]}, None, "'encoder'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    two_ranks: RankPool, change: dict[str, Any], optimizer: str | None, named: str
) -> None:
    for result in two_ranks.try_run(refused, change, optimizer):
        assert isinstance(result, Failure)
        assert result.kind == "UserError"
        assert named in result.message
        assert "\n" not in result.message


def refused_client_optimizer() -> dict[str, Any]:
    """Whether the model is as it was after its optimizer was refused."""
    import dsparse
    from dsparse.errors import UserError

    model = toy_model()
    config = Cell(1, "fp32").config()
    del config["optimizer"]
    try:
        dsparse.initialize(model=model, config=config, optimizer=torch.optim.Adagrad(model.parameters(), lr=1e-3))
        return {"refused": False}
    except UserError:
        model(torch.ones(2, 24)).sum().backward()
        same = all(torch.equal(a, b) for a, b in zip(model.parameters(), toy_model().parameters(), strict=True))
        return {"refused": True, "same": same, "hooks": not bool((model.up.weight.grad != 0).all())}


def test_a_refused_optimizer_leaves_the_model_as_it_was(two_ranks: RankPool) -> None:
    assert two_ranks.run(refused_client_optimizer) == [{"refused": True, "same": True, "hooks": False}] * 2


def grouped_run(stage: int, missing: bool) -> dict[str, Any]:
    """Weights in the second parameter group, or one of them in none."""
    import dsparse

    model = toy_model()
    vectors = [p for p in model.parameters() if p.dim() == 1]
    matrices = [p for p in model.parameters() if p.dim() > 1]
    groups = [{"params": vectors, "weight_decay": 0.0}, {"params": matrices[1:] if missing else matrices}]
    config = Cell(stage, "fp32").config()
    engine = dsparse.initialize(model=model, config=config, model_parameters=groups)[0]
    for _ in range(6):
        backward(engine, Batches(torch.float32), 1)
        engine.step()
    engine.verify_sparsity()
    result = {"updates": engine.num_pattern_updates, "patterns": pattern_numbers(engine)}
    engine.destroy()
    return result


def test_parameter_groups(two_ranks: RankPool) -> None:
    """DeepSpeed links optimizer state after the first group's step; states of later groups must be found too."""
    results = [two_ranks.run(grouped_run, stage, False) for stage in (0, 1, 2, 3)]
    assert all(result == results[0] for result in results)
    assert results[0][0]["updates"] == 2


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_weight_that_the_optimizer_does_not_have_is_named(two_ranks: RankPool, stage: int) -> None:
    for result in two_ranks.try_run(grouped_run, stage, True):
        assert isinstance(result, Failure) and result.kind == "SparsityError"
        assert "'up.weight'" in result.message and "dynamic_sparsity.exclude" in result.message


def stage_3_run(settings: dict[str, Any]) -> list[float]:
    """Stage 3 with parameters kept elsewhere; the losses."""
    import dsparse

    model = toy_model()
    config = Cell(3, "fp32").config(sparsity=0.3)  # most blocks active: fewer candidates than drops
    config["zero_optimization"] |= settings
    engine = dsparse.initialize(model=model, config=config, model_parameters=model.parameters())[0]
    batches, losses = Batches(torch.float32), []
    for _ in range(6):
        losses.append(float(backward(engine, batches, 1)))
        engine.step()
        engine.verify_sparsity()
    assert engine.num_pattern_updates == 2
    engine.destroy()
    return losses


def test_stage_3_wherever_it_keeps_parameters(two_ranks: RankPool) -> None:
    """All partitioned, small ones kept gathered, in sub-groups, or offloaded to the CPU."""
    settings: list[dict[str, Any]] = [
        {"stage3_param_persistence_threshold": 0},
        {"stage3_param_persistence_threshold": 1500},
        {"sub_group_size": 500},
        {"offload_param": {"device": "cpu"}},
    ]
    results = [two_ranks.run(stage_3_run, one) for one in settings]
    assert all(result == results[0] for result in results)


def client_optimizer_run(kind: str) -> bool:
    """An optimizer object and a callable, made by the caller."""
    import dsparse

    model = toy_model()
    config = Cell(1, "fp32").config()
    del config["optimizer"]
    optimizer: Any = {
        "object": lambda: torch.optim.AdamW(model.parameters(), lr=1e-3, amsgrad=True),
        "callable": lambda: lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9, nesterov=True),
    }[kind]()
    engine = dsparse.initialize(model=model, config=config, optimizer=optimizer)[0]
    batches = Batches(torch.float32)
    for _ in range(5):
        backward(engine, batches, 1)
        engine.step()
    engine.verify_sparsity()
    done = engine.num_pattern_updates == 2
    engine.destroy()
    return done


@pytest.mark.parametrize("kind", ["object", "callable"])
def test_client_optimizers(two_ranks: RankPool, kind: str) -> None:
    assert two_ranks.run(client_optimizer_run, kind) == [True, True]


def warnings_of(sparsity: dict[str, Any]) -> list[str]:
    """What `initialize` warns of on this rank."""
    import logging

    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("dsparse.engine.initialize")
    logger.addHandler(handler)
    try:
        make_engine(Cell(1, "fp32"), **sparsity).destroy()
    finally:
        logger.removeHandler(handler)
    return records


@pytest.mark.parametrize(
    ("sparsity", "words"),
    [
        ({}, None),
        ({"method": "static"}, "updates, drop_fraction, drop_schedule, verify_every: method 'static'"),
        # One active block of 15 (down: 1 of 7 by 1): three quarters of it is none.
        ({"block_size": 8, "sparsity": 0.9}, "moves no block of 1 weights with few active blocks, the first 'down"),
    ],
)
def test_settings_without_effect_are_warned_of_on_one_rank(
    two_ranks: RankPool, sparsity: dict[str, Any], words: str | None
) -> None:
    first, second = two_ranks.run(warnings_of, sparsity)
    assert second == []
    assert len(first) == (words is not None)
    assert all(words is not None and words in message for message in first)


def paper_rule_run(scheduler: str) -> list[float]:
    """Learning rates of the first steps under the paper's rule, and under none."""
    import dsparse

    rates = []
    for rule in ("paper", "none"):
        config = Cell(1, "fp32").config(sparsity=0.9, learning_rate_rule=rule)
        params = {"warmup_num_steps": 1, "total_num_steps": 6, "warmup_type": "linear"}
        if scheduler == "WarmupDecayLR":  # the other scales the optimizer's own rate
            params["warmup_max_lr"] = 1e-3
        config["scheduler"] = {"type": scheduler, "params": params}
        model = toy_model()
        engine = dsparse.initialize(model=model, config=config, model_parameters=model.parameters())[0]
        batches = Batches(torch.float32)
        for _ in range(3):
            backward(engine, batches, 1)
            engine.step()
        rates.append(engine.get_lr()[0])
        engine.destroy()
    return rates


@pytest.mark.parametrize("scheduler", ["WarmupDecayLR", "WarmupCosineLR"])
def test_the_papers_learning_rate_rule(two_ranks: RankPool, scheduler: str) -> None:
    for with_rule, without in two_ranks.run(paper_rule_run, scheduler):
        assert without > 0
        assert with_rule / without == pytest.approx(6.40, abs=0.005)  # arXiv 2108.06277: 6.40 at s = 0.9


def export_run(stage: int, precision: str) -> dict[str, Any]:
    """The exported state dict against what the public calls say of each weight."""
    import dsparse

    engine = make_engine(Cell(stage, precision))
    batches = Batches(Cell(stage, precision).dtype)
    for _ in range(3):
        backward(engine, batches, 1)
        engine.step()
    state = dsparse.to_dense_state_dict(engine)
    masters = {name: states["master"] for name, states in full_states(engine).items()}
    fresh = toy_model(seed=9)
    fresh.load_state_dict(state)
    loaded = dict(fresh.named_parameters())
    result = {
        "names": list(state) == list(toy_model().state_dict()),
        "dtypes": {str(tensor.dtype) for tensor in state.values()},
        "equal": all(torch.equal(loaded[name].data, masters[name].cpu()) for name in masters),
        "zeros": all(bool((state[name][~p.mask()] == 0).all()) for name, p in engine.patterns.items()),
    }
    engine.destroy()
    return result


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_export_is_the_masters_as_a_plain_state_dict(two_ranks: RankPool, stage: int, precision: str) -> None:
    for result in two_ranks.run(export_run, stage, precision):
        assert result == {"names": True, "dtypes": {"torch.float32"}, "equal": True, "zeros": True}
