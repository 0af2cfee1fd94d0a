"""How checkpoints come and go in a folder, with a process that is killed at each point in between."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsparse.checkpoint import folder
from dsparse.checkpoint.manifest import Manifest
from dsparse.errors import CheckpointError
from dsparse.faults import VARIABLE
from dsparse.files import write_hashed


def save(root: Path, step: int, content: bytes = b"weights", *, saved_at: str = "") -> str:
    """A checkpoint of one file, as an engine saves it."""
    tag = f"step{step}"
    aside = folder.begin(root, tag)
    record = write_hashed(aside / "model.pt", lambda stream: stream.write(content))
    Manifest(files={"model.pt": record}, about={"global_steps": step, "saved_at": saved_at}).write(aside)
    folder.publish(root, tag)
    folder.write_latest(root, tag)
    return tag


def content(root: Path, tag: str) -> bytes:
    """Of a checkpoint, which must be whole."""
    place = root / folder.locate(root, tag)
    assert Manifest.read(place).problems(place) == []
    return (place / "model.pt").read_bytes()


def visible(root: Path) -> list[str]:
    """Names that do not begin with a dot."""
    return sorted(path.name for path in root.iterdir() if not path.name.startswith("."))


def test_saved_is_there_and_the_latest(tmp_path: Path) -> None:
    save(tmp_path, 9)
    save(tmp_path, 10)
    assert folder.tags(tmp_path) == ["step10", "step9"]
    assert folder.latest_tag(tmp_path) == "step10"
    assert visible(tmp_path) == ["latest", "step10", "step9"]


def test_saved_again_it_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    save(tmp_path, 9, b"old")
    save(tmp_path, 9, b"new")
    assert content(tmp_path, "step9") == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step9"]


@pytest.mark.parametrize("point", ["save.write:1", "save.rename:1"])
def test_killed_over_an_old_one_either_is_there(tmp_path: Path, point: str) -> None:
    save(tmp_path, 9, b"old")
    script = f"from tests.checkpoint.test_folder import Path, save; save(Path({str(tmp_path)!r}), 9, b'new')"
    environment = {**os.environ, VARIABLE: f"0:{point}", "RANK": "0"}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == -9
    assert folder.latest_tag(tmp_path) == "step9"
    assert content(tmp_path, "step9") == b"old"
    assert save(tmp_path, 10) == "step10"
    folder.tidy(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step10", "step9"]


def test_between_two_renames_the_old_one_is_found_and_put_back(tmp_path: Path) -> None:
    save(tmp_path, 9, b"old")
    (tmp_path / "step9").rename(tmp_path / ".replaced-step9")
    assert content(tmp_path, "step9") == b"old"
    folder.tidy(tmp_path)
    assert visible(tmp_path) == ["latest", "step9"] and content(tmp_path, "step9") == b"old"


def test_after_both_renames_the_old_one_goes(tmp_path: Path) -> None:
    save(tmp_path, 9, b"new")
    save(tmp_path, 8, b"old")
    (tmp_path / "step8").rename(tmp_path / ".replaced-step9")
    folder.tidy(tmp_path)
    assert content(tmp_path, "step9") == b"new"
    assert not (tmp_path / ".replaced-step9").exists()


def test_the_last_few_and_every_so_many_stay(tmp_path: Path) -> None:
    for step in (10, 20, 25, 30, 35, 40):
        save(tmp_path, step)
    assert sorted(folder.prune(tmp_path, keep=2, keep_every=20)) == ["step10", "step25", "step30"]
    assert folder.tags(tmp_path) == ["step40", "step35", "step20"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step20", "step35", "step40"]


def test_the_latest_stays_though_it_is_old(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step)
    folder.write_latest(tmp_path, "step10")
    assert folder.prune(tmp_path, keep=1, keep_every=0) == ["step20"]


def test_after_going_back_the_last_saved_stay(tmp_path: Path) -> None:
    for number, step in enumerate((10, 20, 30, 12, 14)):  # went back to 10
        save(tmp_path, step, saved_at=f"2026-01-01T00:00:0{number}")
    assert sorted(folder.prune(tmp_path, keep=2, keep_every=0)) == ["step10", "step20", "step30"]


@pytest.mark.parametrize(("keep", "keep_every"), [(0, 0), (-1, 0), (1, -3)])
def test_numbers_out_of_range_remove_nothing(tmp_path: Path, keep: int, keep_every: int) -> None:
    save(tmp_path, 10)
    with pytest.raises(CheckpointError, match="at least 1"):
        folder.prune(tmp_path, keep=keep, keep_every=keep_every)


def test_what_is_no_checkpoint_is_not_removed(tmp_path: Path) -> None:
    for step in (10, 20):
        save(tmp_path, step)
    (tmp_path / "step5").mkdir()
    (tmp_path / "step5" / "manifest.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    folder.prune(tmp_path, keep=1, keep_every=0)
    assert visible(tmp_path) == ["latest", "notes.txt", "step20", "step5"]


def test_good_ones_are_those_of_which_every_byte_is_there(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step)
    (tmp_path / "step30" / "model.pt").write_bytes(b"weightz")
    (tmp_path / "step20" / "manifest.json").write_text("{}")
    assert list(folder.good_tags(tmp_path)) == ["step10"]


@pytest.mark.parametrize("tag", ["", "a/b", "..", ".hidden", "latest", "a\0b", " a", "a\n", "a" * 300])
def test_a_tag_must_be_able_to_name_a_folder(tag: str) -> None:
    with pytest.raises(CheckpointError, match="tag"):
        folder.require_tag(tag)


@pytest.mark.parametrize("content", [b"", b"../elsewhere", b"\xff\xfe", b"a/b"])
def test_a_damaged_latest_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "latest").write_bytes(content)
    with pytest.raises(CheckpointError, match="latest"):
        folder.latest_tag(tmp_path)
