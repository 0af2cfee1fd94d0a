"""A byte flipped, a file cut short or gone: loading says which, and what to take instead. A full disk costs nothing."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dsparse.checkpoint.manifest import Manifest
from tests.distributed.cells import Cell, make_engine
from tests.distributed.rank_pool import Failure, RankPool
from tests.distributed.test_checkpoint import SPARSITY, final_state, train

pytestmark = pytest.mark.distributed


def save_two(folder: str, stage: int) -> list[str]:
    """Two checkpoints; the files of the later one."""
    engine = make_engine(Cell(stage, "fp32"), **SPARSITY)
    for step in (1, 2):
        train(engine, Cell(stage, "fp32").dtype, step, step)
        engine.save_checkpoint(folder, tag=f"step{step}")
    engine.destroy()
    return sorted(path.name for path in Path(folder, "step2").iterdir())


def load_each(folders: list[str], stage: int) -> list[tuple[str, str, bool]]:
    """For each folder the kind of refusal, what it said, and whether the engine was left as it was."""
    engine = make_engine(Cell(stage, "fp32"), **SPARSITY)
    train(engine, Cell(stage, "fp32").dtype, 1, 1)
    before = final_state(engine, [])
    said = []
    for folder in folders:
        try:
            engine.load_checkpoint(folder)
            said.append(("loaded", "", False))
        except Exception as error:
            said.append((type(error).__name__, str(error), True))
    unchanged = final_state(engine, []) == before
    engine.destroy()
    return [(kind, message, was_refused and unchanged) for kind, message, was_refused in said]


def damaged(path: Path, kind: str, seed: int) -> None:
    """Damages a file at a place drawn from the seed."""
    content = path.read_bytes()
    place = random.Random(seed).randrange(len(content))
    if kind == "flipped":
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << seed % 8)]) + content[place + 1 :])
    elif kind == "truncated":
        path.write_bytes(content[:place])
    else:
        path.unlink()


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_damage_to_any_file_is_named_with_what_to_take_instead(two_ranks: RankPool, tmp_path: Path, stage: int) -> None:
    whole = tmp_path / "whole"
    names = two_ranks.run(save_two, str(whole), stage)[0]
    assert len(names) >= 3
    cases = []
    for name in names:
        for kind, seeds in {"flipped": range(4), "truncated": range(2), "deleted": range(1)}.items():
            for seed in seeds:
                root = tmp_path / f"{kind}{seed}-{name}"
                shutil.copytree(whole, root)
                damaged(root / "step2" / name, kind, seed)
                cases.append((root, name))
    for results in two_ranks.run(load_each, [str(root) for root, _ in cases], stage):
        for (root, name), (kind, message, unchanged) in zip(cases, results, strict=True):
            assert kind == "CheckpointError", root.name
            assert name in message and "\n" not in message
            assert f"{root / 'step1'} is whole" in message and "last-good" in message
            assert unchanged


def test_where_none_is_whole_it_says_so(two_ranks: RankPool, tmp_path: Path) -> None:
    two_ranks.run(save_two, str(tmp_path), 1)
    for tag in ("step1", "step2"):
        damaged(tmp_path / tag / "mp_rank_00_model_states.pt", "truncated", 1)
    for ((kind, message, _),) in two_ranks.run(load_each, [str(tmp_path)], 1):
        assert kind == "CheckpointError" and "no other checkpoint there is whole" in message


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 600 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs to mount a small tmpfs, which only root may: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def save_until_full(folder: str) -> dict[str, Any]:
    """Saves until the disk is full, goes on training, and loads what is there."""
    engine = make_engine(Cell(1, "fp32"), **SPARSITY)
    last: dict[str, Any] = {}
    for step in range(1, 40):
        train(engine, Cell(1, "fp32").dtype, 1, 1)
        state = final_state(engine, [])
        try:
            engine.save_checkpoint(folder, tag=f"step{step}")
        except Exception as error:
            train(engine, Cell(1, "fp32").dtype, 1, 1)
            engine.load_checkpoint(folder)
            loaded = final_state(engine, [])
            engine.destroy()
            return {"step": step, "said": str(error), "loaded": loaded, "last": last}
        last = state
    raise AssertionError("the disk did not fill up")


def test_a_full_disk_is_said_and_leaves_the_last_checkpoint(two_ranks: RankPool, small_disk: Path) -> None:
    for result in two_ranks.run(save_until_full, str(small_disk)):
        assert result["step"] > 1
        assert "No space left on device" in result["said"]
        assert result["loaded"] == result["last"]
    names = {path.name for path in small_disk.iterdir() if path.is_dir()}
    assert names == {f"step{step}" for step in range(1, result["step"])}  # and nothing half-written
    for name in names:
        assert Manifest.read(small_disk / name).problems(small_disk / name) == []


class Surprise:
    """What a client may want to save, and nobody should unpickle."""

    def __reduce__(self) -> Any:
        return (print, ("code of a checkpoint ran",))


def save_surprise(folder: str) -> None:
    """Saves an object whose unpickling runs code."""
    engine = make_engine(Cell(1, "fp32"), **SPARSITY)
    train(engine, Cell(1, "fp32").dtype, 1, 1)
    try:
        engine.save_checkpoint(folder, tag="step1", client_state={"surprise": Surprise()})
    finally:
        engine.destroy()


def test_what_only_code_could_read_is_not_saved(two_ranks: RankPool, tmp_path: Path) -> None:
    for result in two_ranks.try_run(save_surprise, str(tmp_path)):
        assert isinstance(result, Failure) and result.kind == "UserError"
        assert "builtins.print" in result.message
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def load_surprise(folder: str) -> tuple[str, str]:
    """Loads a checkpoint whose files and manifest were made to run code."""
    import torch
    from deepspeed import comm as dist

    from dsparse.files import FileRecord

    engine = make_engine(Cell(1, "fp32"), **SPARSITY)
    train(engine, Cell(1, "fp32").dtype, 1, 1)
    engine.save_checkpoint(folder, tag="step1")
    place = Path(folder, "step1")
    if dist.get_rank() == 0:
        name = "mp_rank_00_model_states.pt"
        torch.save({"module": Surprise()}, place / name)
        manifest = Manifest.read(place)
        Manifest(files={**manifest.files, name: FileRecord.of(place / name)}, about=manifest.about).write(place)
    dist.barrier()
    try:
        engine.load_checkpoint(folder)
    except Exception as error:
        return type(error).__name__, str(error)
    finally:
        engine.destroy()
    return "loaded", ""


def test_code_in_a_checkpoint_does_not_run(
    two_ranks: RankPool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for kind, message in two_ranks.run(load_surprise, str(tmp_path)):
        assert kind == "CheckpointError" and "only running code could read" in message
    assert "code of a checkpoint ran" not in capfd.readouterr().out
