"""Checkpoints of an engine: what was stopped and resumed ends like what never stopped, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dsparse.checkpoint.manifest import Manifest
from dsparse.checkpoint.patterns import FILE_NAME
from dsparse.files import FileRecord
from tests.distributed.cells import Batches, Cell, allow_fp16, backward, full_states, make_engine, pattern_numbers
from tests.distributed.rank_pool import Failure, RankPool

pytestmark = pytest.mark.distributed

SPARSITY: dict[str, Any] = {"total_steps": 12, "updates": 6}


def train(engine: Any, dtype: torch.dtype, first: int, last: int) -> list[float]:
    """Steps first … last, each with batches of its own seed."""
    losses = []
    for step in range(first, last + 1):
        losses.append(float(backward(engine, Batches(dtype, seed=step), 1)))
        engine.step()
    return losses


def final_state(engine: Any, losses: list[float]) -> dict[str, Any]:
    """Everything that must be equal."""
    states = {n: {k: t.double().tolist() for k, t in by_key.items()} for n, by_key in full_states(engine).items()}
    return {
        "states": states,
        "patterns": pattern_numbers(engine),
        "coverage": engine.coverage,
        "last_grown": {name: history.last_grown.tolist() for name, history in engine.histories.items()},
        "updates": engine.num_pattern_updates,
        "applied": engine.num_applied_steps,
        "losses": losses[-4:],
    }


def uninterrupted(cell: Cell) -> dict[str, Any]:
    """Twelve steps in one go."""
    with allow_fp16():
        engine = make_engine(cell, **SPARSITY)
        losses = train(engine, cell.dtype, 1, 12)
        result = final_state(engine, losses)
        engine.destroy()
        return result


def interrupted(cell: Cell, folder: str) -> dict[str, Any]:
    """Seven steps, a checkpoint, a new engine with other initial weights, five more."""
    with allow_fp16():
        engine = make_engine(cell, **SPARSITY)
        train(engine, cell.dtype, 1, 7)
        engine.save_checkpoint(folder, client_state={"position": 7})
        engine.destroy()
        from tests.distributed.cells import toy_model

        engine = make_engine(cell, toy_model(seed=99), **SPARSITY)
        path, client_state = engine.load_checkpoint(folder)
        assert path is not None and client_state["position"] == 7
        engine.verify_sparsity()
        losses = train(engine, cell.dtype, 8, 12)
        result = final_state(engine, losses)
        engine.destroy()
        return result


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_resumed_equals_uninterrupted_bit_for_bit(
    two_ranks: RankPool, tmp_path: Path, stage: int, precision: str
) -> None:
    cell = Cell(stage, precision)
    whole = two_ranks.run(uninterrupted, cell)
    parts = two_ranks.run(interrupted, cell, str(tmp_path))
    assert parts == whole
    assert whole[0]["updates"] >= 4


@pytest.mark.parametrize(
    "cell",
    [
        Cell(1, "fp32", offload=True),
        Cell(2, "bf16", optimizer="SGD momentum"),
        *(Cell(stage, precision, layout="packed") for stage in range(4) for precision in ("fp32", "bf16")),
    ],
)
def test_resumed_with_offload_and_other_optimizers(two_ranks: RankPool, tmp_path: Path, cell: Cell) -> None:
    assert two_ranks.run(interrupted, cell, str(tmp_path)) == two_ranks.run(uninterrupted, cell)


def partly_loaded(cell: Cell, folder: str, option: dict[str, bool]) -> dict[str, Any]:
    """Loads without moments into an engine that has moments, at the places of patterns it had before."""
    from tests.distributed.cells import toy_model

    with allow_fp16():
        engine = make_engine(cell, **SPARSITY)
        train(engine, cell.dtype, 1, 7)
        engine.save_checkpoint(folder)
        saved = {"patterns": pattern_numbers(engine), "updates": engine.num_pattern_updates}
        weights = {name: states["weight"].double() for name, states in full_states(engine).items()}
        engine.destroy()
        engine = make_engine(cell, toy_model(seed=99), **SPARSITY)
        train(engine, cell.dtype, 1, 5)
        other, masks = pattern_numbers(engine), {name: one.mask() for name, one in engine.patterns.items()}
        engine.load_checkpoint(folder, **option)
        loaded = {"patterns": pattern_numbers(engine), "updates": engine.num_pattern_updates}
        now = full_states(engine)
        same = all(torch.equal(weights[n], states["weight"].double()) for n, states in now.items())
        same &= all(torch.equal(states["master"].to(cell.dtype), states["weight"]) for states in now.values())
        strange = [
            f"{key} of {name}"
            for name, states in now.items()
            for key, moment in states.items()
            if key.startswith("exp_avg") and bool((moment[~masks[name]] != 0).any())
        ]
        coverage = dict(engine.coverage)
        train(engine, cell.dtype, 8, 9)
        engine.verify_sparsity()
        densities = {name: pattern.density for name, pattern in engine.patterns.items()}
        engine.destroy()
    return {
        "saved": saved,
        "loaded": loaded,
        "differed": other != saved["patterns"],
        "same_weights": same,
        "moments_of_other_blocks": strange,
        "covers_now": coverage == densities,
    }


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("option", ["load_module_only", "load_optimizer_states"])
@pytest.mark.parametrize("layout", ["masked", "packed"])
def test_loaded_without_moments_the_invariant_holds(
    two_ranks: RankPool, tmp_path: Path, layout: str, stage: int, precision: str, option: str
) -> None:
    given = {option: option == "load_module_only"}
    for result in two_ranks.run(partly_loaded, Cell(stage, precision, layout=layout), str(tmp_path), given):
        assert result["differed"] and result["same_weights"] and result["moments_of_other_blocks"] == []
        assert result["loaded"]["patterns"] == result["saved"]["patterns"]
        begins_anew = option == "load_module_only"
        assert result["loaded"]["updates"] == (0 if begins_anew else result["saved"]["updates"])
        assert result["covers_now"] == begins_anew


def load_another_tag(folder: str) -> bool:
    """Asks stage 3 for the weights of a tag that is not the latest, which DeepSpeed by itself cannot give."""
    engine = make_engine(Cell(3, "fp32"), **SPARSITY)
    try:
        weights = []
        for tag in ("one", "two"):
            train(engine, torch.float32, 1, 1)
            engine.save_checkpoint(folder, tag=tag)
            weights.append({name: states["weight"] for name, states in full_states(engine).items()})
        engine.load_checkpoint(folder, "one", load_optimizer_states=False)
        loaded = {name: states["weight"] for name, states in full_states(engine).items()}
        one, two = ([torch.equal(loaded[name], saved[name]) for name in loaded] for saved in weights)
        return all(one) and not any(two)
    finally:
        engine.destroy()


def test_stage_3_without_moments_takes_the_tag_that_was_asked_for(two_ranks: RankPool, tmp_path: Path) -> None:
    assert two_ranks.run(load_another_tag, str(tmp_path)) == [True, True]


def load_with_other_weights(folder: str) -> None:
    """Puts the patterns of one step beside the weights of another, and loads them."""
    import shutil

    from deepspeed import comm as dist

    engine = make_engine(Cell(1, "fp32"), **SPARSITY)
    try:
        for tag, first, last in (("early", 1, 3), ("late", 4, 7)):
            train(engine, torch.float32, first, last)
            engine.save_checkpoint(folder, tag=tag)
        if dist.get_rank() == 0:
            late = Path(folder, "late")
            shutil.copy(f"{folder}/early/{FILE_NAME}", late / FILE_NAME)
            manifest = Manifest.read(late)
            files = {**manifest.files, FILE_NAME: FileRecord.of(late / FILE_NAME)}
            Manifest(files=files, about=manifest.about).write(late)
        dist.barrier()
        engine.load_checkpoint(folder, "late")
    finally:
        engine.destroy()


def test_patterns_of_another_step_are_caught_when_loaded(two_ranks: RankPool, tmp_path: Path) -> None:
    for result in two_ranks.try_run(load_with_other_weights, str(tmp_path)):
        assert isinstance(result, Failure) and result.kind == "InvariantError"
        assert "after loading a checkpoint" in result.message


def save_dense(folder: str, is_ours: bool) -> None:
    """A checkpoint of the same model, trained dense, by DeepSpeed's engine or by ours."""
    import deepspeed

    from dsparse.engine.initialize import initialize_dense
    from tests.distributed.cells import toy_model

    config = Cell(1, "fp32").config()
    del config["dynamic_sparsity"]
    model = toy_model()
    if is_ours:
        engine: Any = initialize_dense(model, config=config, model_parameters=model.parameters())
    else:
        engine = deepspeed.initialize(model=model, config=config, model_parameters=model.parameters())[0]
    train(engine, torch.float32, 1, 1)
    engine.save_checkpoint(folder, tag="dense")
    engine.destroy()


def save_sparse(folder: str, sparsity: dict[str, Any]) -> None:
    """A checkpoint of a sparse run."""
    engine = make_engine(Cell(1, "fp32"), **{**SPARSITY, **sparsity})
    train(engine, torch.float32, 1, 3)
    engine.save_checkpoint(folder, tag="sparse")
    engine.destroy()


def load(folder: str, tag: str | None, sparsity: dict[str, Any]) -> dict[str, Any]:
    """Loads into a fresh engine; says whether a refusal left the engine as it was."""
    engine = make_engine(Cell(1, "fp32"), **{**SPARSITY, **sparsity})
    train(engine, torch.float32, 1, 1)
    before = final_state(engine, [])
    try:
        engine.load_checkpoint(folder, tag)
        return {"refused": None}
    except Exception as error:
        unchanged = final_state(engine, []) == before
        return {"refused": type(error).__name__, "message": str(error), "unchanged": unchanged}
    finally:
        engine.destroy()


@pytest.mark.parametrize(("is_ours", "named"), [(True, FILE_NAME), (False, "without manifest.json")])
def test_a_checkpoint_without_patterns_is_refused(
    two_ranks: RankPool, tmp_path: Path, is_ours: bool, named: str
) -> None:
    two_ranks.run(save_dense, str(tmp_path), is_ours)
    for result in two_ranks.run(load, str(tmp_path), None, {}):
        assert result["refused"] in ("CheckpointError", "UserError")  # on the rank that saw it, and on the others
        assert named in result["message"] and "\n" not in result["message"]
        assert result["unchanged"]


@pytest.mark.parametrize(
    ("now", "named"),
    [
        ({"sparsity": 0.5}, "dynamic_sparsity.sparsity = 0.75"),
        ({"block_size": 8}, "'down.weight'"),
        ({"exclude": ["mix"]}, "'mix.weight'"),
        ({"distribution": "erk"}, "distribution"),
    ],
)
def test_a_checkpoint_of_another_sparsity_is_refused(
    two_ranks: RankPool, tmp_path: Path, now: dict[str, Any], named: str
) -> None:
    two_ranks.run(save_sparse, str(tmp_path), {})
    for result in two_ranks.run(load, str(tmp_path), None, now):
        assert result["refused"] == "UserError"
        assert named in result["message"]
        assert result["unchanged"]


def test_settings_that_may_change_do(two_ranks: RankPool, tmp_path: Path) -> None:
    two_ranks.run(save_sparse, str(tmp_path), {})
    for result in two_ranks.run(load, str(tmp_path), "sparse", {"method": "static"}):
        assert result["refused"] is None


def save_with_a_flipped_bit(folder: str) -> None:
    """A rank whose pattern changed in memory must not write it down."""
    from deepspeed import comm as dist

    engine = make_engine(Cell(1, "fp32"), **SPARSITY)
    train(engine, torch.float32, 1, 1)
    if dist.get_rank() == 1:
        engine.patterns["up.weight"].rows[0] ^= 1
    try:
        engine.save_checkpoint(folder)
    finally:
        engine.destroy()


def test_patterns_that_differ_are_not_saved(two_ranks: RankPool, tmp_path: Path) -> None:
    for result in two_ranks.try_run(save_with_a_flipped_bit, str(tmp_path)):
        assert isinstance(result, Failure) and result.kind == "PatternDisagreementError"
    assert not (tmp_path / "latest").exists()
    assert list(tmp_path.rglob(FILE_NAME)) == []


def save_weights_where_nothing_can_be_written(folder: str) -> None:
    """DeepSpeed's export of 16-bit weights goes through our writer too, and must not lose an error."""
    engine = make_engine(Cell(1, "bf16"), **SPARSITY)
    try:
        engine.save_16bit_model(folder, "weights.pt")
        assert Path(folder, "weights.pt").is_file()
        Path(folder, "taken").mkdir(exist_ok=True)
        engine.save_16bit_model(folder, "taken")
    finally:
        engine.destroy()


def test_an_export_that_fails_says_so(two_ranks: RankPool, tmp_path: Path) -> None:
    results = two_ranks.try_run(save_weights_where_nothing_can_be_written, str(tmp_path))
    assert isinstance(results[0], Failure) and results[0].kind == "IsADirectoryError"
