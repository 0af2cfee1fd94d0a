"""What a step may and may not do: clipping, overflow, disagreement, weights that are not finite."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import nn

from tests.distributed.cells import (
    Batches,
    Cell,
    allow_fp16,
    backward,
    full_gradients,
    full_states,
    make_engine,
    pattern_numbers,
    sparse_parameters,
)
from tests.distributed.rank_pool import Failure, RankPool

pytestmark = pytest.mark.distributed


class LoudOutside(nn.Module):
    """A linear layer whose loss has a gradient of 1e6 at places the pattern leaves out."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.linear = nn.Linear(24, 8, bias=False)
        self.loud: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        loss = (self.linear(x) ** 2).mean()
        if self.loud is not None:
            loss = loss + 1e6 * (self.linear.weight * self.loud).sum()
        return loss


def clipped_norm(stage: int, precision: str) -> dict[str, float | None]:
    """The norm DeepSpeed reports and the one it clipped to, beside that of the gradient over active weights only."""
    import dsparse

    cell = Cell(stage, precision, clipping=True, optimizer="SGD momentum")
    model = LoudOutside()
    config = cell.config()
    config["optimizer"]["params"]["weight_decay"] = 0.0
    engine = dsparse.initialize(model=model, config=config, model_parameters=model.parameters())[0]
    mask = engine.patterns["linear.weight"].mask()
    model.loud = (~mask).to(cell.dtype)
    x = torch.randn(4, 24, generator=torch.Generator().manual_seed(5)).to(cell.dtype)
    engine.backward(engine(x))
    gradient = full_gradients(engine)["linear.weight"].float()
    engine.step()
    reported = engine.get_global_grad_norm()
    result = {
        "reported": None if reported is None else float(reported),
        "active": float(gradient[mask].norm()),
        "outside": float(gradient[~mask].abs().max()),
        # After the first step the momentum is the clipped gradient itself.
        "clipped": float(full_states(engine)["linear.weight"]["momentum_buffer"].norm()),
    }
    engine.destroy()
    return result


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_clipping_sees_active_weights_only(two_ranks: RankPool, stage: int, precision: str) -> None:
    for result in two_ranks.run(clipped_norm, stage, precision):
        assert result["outside"] == 0
        assert 0.1 < result["active"] < 10
        assert result["clipped"] == pytest.approx(0.1, rel=1e-4 if precision == "fp32" else 1e-2)
        # DeepSpeed sums squares per rank and adds; we sum them in one go.
        assert result["reported"] == pytest.approx(result["active"], rel=1e-5 if precision == "fp32" else 1e-2)


def overflow_run(stage: int, overflow_at: tuple[int, ...]) -> list[tuple[bool, int, int]]:
    """Per step (applied, applied so far, updates so far); infinite inputs at the given steps, on rank 1 alone."""
    from deepspeed import comm as dist

    with allow_fp16():
        cell = Cell(stage, "fp16")
        config = cell.config()
        config["fp16"] |= {"loss_scale_window": 1000, "hysteresis": 1}
        import dsparse
        from tests.distributed.cells import toy_model

        model = toy_model()
        engine = dsparse.initialize(model=model, config=config, model_parameters=model.parameters())[0]
        batches = Batches(cell.dtype)
        while not engine.num_applied_steps:  # until the loss scale fits
            backward(engine, batches, 1)
            engine.step()
        rows = []
        for step in range(10):
            loss = batches.loss(engine)
            if step in overflow_at and dist.get_rank() == 1:
                loss = loss * torch.tensor(float("inf"), dtype=loss.dtype)
            before = pattern_numbers(engine)
            engine.backward(loss)
            engine.step()
            applied = engine.was_step_applied()
            assert applied or before == pattern_numbers(engine), "a skipped step changed a pattern"
            rows.append((applied, engine.num_applied_steps, engine.num_pattern_updates))
        engine.verify_sparsity()
        engine.destroy()
        return rows


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_step_skipped_for_overflow_neither_updates_nor_counts(two_ranks: RankPool, stage: int) -> None:
    """The update due after applied step 2 waits through two skipped steps, on both ranks.

    DeepSpeed refuses fp16 on CPU, though it trains in it: the test overrides the accelerator's two capability answers.
    """
    first, second = two_ranks.run(overflow_run, stage, (0, 1))
    assert first == second
    assert [applied for applied, _, _ in first] == [False, False] + [True] * 8
    assert [count for _, count, _ in first] == [1, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert [updates for _, _, updates in first] == [0, 0, 1, 1, 2, 2, 2, 2, 2, 2]


def corrupted_run(stage: int, what: str, rank: int) -> None:
    """Trains, then flips one bit on one rank, then trains on to the next update."""
    from deepspeed import comm as dist

    engine = make_engine(Cell(stage, "fp32"))
    batches = Batches(torch.float32)
    try:
        for step in range(6):
            if step == 3 and dist.get_rank() == rank:
                pattern = engine.patterns["mix.weight"]
                if what == "pattern":
                    pattern.cols[2] ^= 1
                elif what == "address":
                    pattern.rows[2] ^= 1 << 20
                elif what == "mask":
                    engine._layouts["mix.weight"]._inactive_OI[5, 7] ^= True
            backward(engine, batches, 1)
            engine.step()
    finally:
        engine.destroy()


@pytest.mark.parametrize("what", ["pattern", "address", "mask"])
@pytest.mark.parametrize(("stage", "rank"), [(0, 1), (1, 0), (2, 1), (3, 0)])
def test_a_flipped_bit_stops_all_ranks_by_name(two_ranks: RankPool, stage: int, rank: int, what: str) -> None:
    t0_s = time.monotonic()
    results = two_ranks.try_run(corrupted_run, stage, what, rank, timeout_s=60)
    assert time.monotonic() - t0_s < 30
    for result in results:
        assert isinstance(result, Failure)
        assert result.kind == "PatternDisagreementError"
        assert "'mix.weight'" in result.message
        assert f"rank {rank}" in result.message
        assert "update 2" in result.message
        assert f"rank {1 - rank}" not in result.message


def diverged_run(key: str, values: tuple[Any, Any], method: str) -> None:
    """Each rank has a setting of its own."""
    from deepspeed import comm as dist

    make_engine(Cell(1, "fp32"), **{"method": method, key: values[dist.get_rank()]})


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [
        ("seed", (0, 1), "dynamic_sparsity.seed = 0 on rank 0 and 1 on rank 1"),
        ("total_steps", (6, 7), "dynamic_sparsity.total_steps = 6 on rank 0 and 7 on rank 1"),
        ("exclude", ([], ["mix"]), "dynamic_sparsity.exclude = [] on rank 0 and ['mix'] on rank 1"),
    ],
)
@pytest.mark.parametrize("method", ["set", "static"])
def test_ranks_with_other_settings_never_start(
    two_ranks: RankPool, key: str, values: tuple[Any, Any], said: str, method: str
) -> None:
    for result in two_ranks.try_run(diverged_run, key, values, method, timeout_s=60):
        assert isinstance(result, Failure)
        assert result.kind == "PatternDisagreementError"
        assert said in result.message


def broken_weight_run(stage: int) -> Any:
    """A NaN appears in the master of one weight, on the rank that owns it, right before an update."""
    engine = make_engine(Cell(stage, "fp32"))
    before = pattern_numbers(engine)
    try:
        backward(engine, Batches(torch.float32), 1)
        engine.step()
        backward(engine, Batches(torch.float32), 1)
        # Behind the gradients, which would make the step be skipped.
        fragment = engine._fragments["mix.weight"]
        if fragment.master_n.numel():
            fragment.master_n[0] = float("nan")
        try:
            engine.step()
        except Exception as error:
            return type(error).__name__, str(error), before == pattern_numbers(engine)
        return None
    finally:
        engine.destroy()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_patterns_never_update_from_weights_that_are_not_finite(two_ranks: RankPool, stage: int) -> None:
    for kind, message, unchanged in two_ranks.run(broken_weight_run, stage):
        assert kind == "NonFiniteWeightError"
        assert "'mix.weight'" in message
        assert unchanged


def tampered_run(stage: int, state: str) -> None:
    """Something writes outside the pattern; the check at the first update must see it."""
    engine = make_engine(Cell(stage, "bf16"))
    try:
        backward(engine, Batches(torch.bfloat16), 1)
        engine.step()
        fragment = engine._fragments["up.weight"]
        tensor = fragment.master_n if state == "master" else fragment.moments_n.get(state)
        if tensor is not None and tensor.numel():
            # The moment is large enough to be there still after the next step has decayed it.
            outside = (~engine.patterns["up.weight"].mask()).flatten()[fragment.start :][: tensor.numel()]
            tensor[outside] = 1.0
        backward(engine, Batches(torch.bfloat16), 1)
        engine.step()
    finally:
        engine.destroy()


@pytest.mark.parametrize("state", ["master", "exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_first_update_checks_the_invariant(two_ranks: RankPool, stage: int, state: str) -> None:
    for result in two_ranks.try_run(tampered_run, stage, state):
        assert isinstance(result, Failure)
        assert result.kind == "InvariantError"
        assert f"{state} of 'up.weight'" in result.message


def static_and_tampered(stage: int) -> None:
    """A static run in which something writes outside the pattern before the first step."""
    engine = make_engine(Cell(stage, "fp32"), method="static")
    try:
        fragment = engine._fragments["mix.weight"]
        outside = (~engine.patterns["mix.weight"].mask()).flatten()[fragment.start :][: fragment.master_n.numel()]
        fragment.master_n[outside] = 1.0
        backward(engine, Batches(torch.float32), 1)
        engine.step()
    finally:
        engine.destroy()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_first_step_is_checked_whatever_the_method(two_ranks: RankPool, stage: int) -> None:
    for result in two_ranks.try_run(static_and_tampered, stage):
        assert isinstance(result, Failure) and result.kind == "InvariantError"
        assert "after the first step" in result.message and "'mix.weight'" in result.message


def hidden_state_run() -> None:
    """What an update zeroes comes back at the next step, as it would from a place that nobody knows of."""
    engine = make_engine(Cell(1, "fp32"), total_steps=12, updates=4, verify_every=0)
    try:
        for step in range(1, 13):
            backward(engine, Batches(torch.float32), 1)
            engine.step()
            if step == 3:
                fragment = engine._fragments["mix.weight"]
                outside = (~engine.patterns["mix.weight"].mask()).flatten()[fragment.start :]
                fragment.master_n[outside[: fragment.master_n.numel()]] = 1.0
    finally:
        engine.destroy()


def test_what_comes_back_after_the_first_update_is_seen_before_the_next(two_ranks: RankPool) -> None:
    for result in two_ranks.try_run(hidden_state_run):
        assert isinstance(result, Failure) and result.kind == "InvariantError"
        assert "before update 2" in result.message


def failing_on_one_rank() -> None:
    """Something that only rank 1 meets."""
    from deepspeed import comm as dist

    engine = make_engine(Cell(1, "fp32"))
    try:
        backward(engine, Batches(torch.float32), 1)
        engine.step()
        if dist.get_rank() == 1:
            engine._fragments._weights = {}
        backward(engine, Batches(torch.float32), 1)
        engine.step()
    finally:
        engine.destroy()


def test_a_failure_on_one_rank_stops_all(two_ranks: RankPool) -> None:
    first, second = two_ranks.try_run(failing_on_one_rank, timeout_s=60)
    assert isinstance(first, Failure) and first.kind == "SparsityError" and "Rank 1 failed" in first.message
    assert isinstance(second, Failure) and second.kind == "KeyError"


def mask_is_active(stage: int) -> bool:
    """Whether any active weight of any layer has a gradient: the masks let something through."""
    engine = make_engine(Cell(stage, "fp32"))
    backward(engine, Batches(torch.float32), 1)
    gradients = full_gradients(engine)
    result = all(bool((gradients[name][engine.patterns[name].mask()] != 0).any()) for name in sparse_parameters(engine))
    engine.step()
    engine.destroy()
    return result


def test_active_weights_have_gradients(two_ranks: RankPool) -> None:
    assert two_ranks.run(mask_is_active, 2) == [True, True]
