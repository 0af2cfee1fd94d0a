"""Which checkpoint a run goes on from, and when it may not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dsparse.checkpoint.manifest import MANIFEST, Manifest
from dsparse.errors import UserError
from dsparse.train.checkpoint import RunRecord, RunState, find_checkpoint, require_same_run
from dsparse.train.output import continue_record


def make_checkpoint(output: Path, tag: str, *, is_latest: bool = True) -> Path:
    folder = output / "checkpoints" / tag
    folder.mkdir(parents=True)
    about = {"global_steps": int(tag.removeprefix("step")), "client_state": record().to_client_state()}
    Manifest(files={}, about=about).write(folder)
    if is_latest:
        (output / "checkpoints/latest").write_text(tag)
    return folder


def record(**train: Any) -> RunRecord:
    run = {"model": {"preset": "tiny"}, "train": {"steps": 10, "log_every": 1, **train}, "output": "a", "monitor": {}}
    return RunRecord(run=run, deepspeed={"optimizer": {"params": {"betas": (0.9, 0.999)}}}, world_size=2)


def test_auto_takes_what_latest_names_and_starts_afresh_without_it(tmp_path: Path) -> None:
    assert find_checkpoint("auto", tmp_path) is None
    first = make_checkpoint(tmp_path, "step10")
    later = make_checkpoint(tmp_path, "step20", is_latest=False)
    assert find_checkpoint("auto", tmp_path) == first
    (tmp_path / "checkpoints/latest").unlink()  # as after a kill right before it is written for the first time
    assert find_checkpoint("auto", tmp_path) == later


def test_a_fresh_start_never_overwrites_checkpoints(tmp_path: Path) -> None:
    assert find_checkpoint("none", tmp_path) is None
    make_checkpoint(tmp_path, "step10")
    with pytest.raises(UserError, match=r"step10.*--checkpoint\.resume auto.*--output"):
        find_checkpoint("none", tmp_path)


def test_a_checkpoint_can_be_named_or_pointed_at(tmp_path: Path) -> None:
    named = make_checkpoint(tmp_path, "step10")
    make_checkpoint(tmp_path, "step20")
    assert find_checkpoint("step10", tmp_path) == named
    assert find_checkpoint(str(named), tmp_path / "elsewhere") == named
    assert find_checkpoint(str(named.parent), tmp_path) == named.parent / "step20"
    with pytest.raises(UserError, match=r"auto, last-good, none or a checkpoint\. Got 'step30'"):
        find_checkpoint("step30", tmp_path)


def test_a_latest_that_points_nowhere_is_named(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "step10", is_latest=False)
    shutil.rmtree(make_checkpoint(tmp_path, "step20"))
    with pytest.raises(UserError, match=r"latest.*step20.*last-good"):
        find_checkpoint("auto", tmp_path)


def test_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, "step10")
    require_same_run(record(), checkpoint, tmp_path)
    require_same_run(record(log_every=5), checkpoint, tmp_path)
    require_same_run(dataclasses.replace(record(), world_size=3), checkpoint, tmp_path)
    with pytest.raises(UserError, match=r"run\.train\.steps was 10, now 20"):
        require_same_run(record(steps=20), checkpoint, tmp_path)


def test_what_no_run_has_saved_is_refused(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, "step10")
    Manifest(files={}, about={"global_steps": 10}).write(checkpoint)
    with pytest.raises(UserError, match=r"a checkpoint of pretrain\.py"):
        require_same_run(record(), checkpoint, tmp_path)


def test_a_damaged_manifest_is_named_with_the_last_whole_one(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "step10")
    checkpoint = make_checkpoint(tmp_path, "step20")
    (checkpoint / MANIFEST).write_text("{}")
    with pytest.raises(UserError, match=r"manifest\.json.*step10 is whole.*last-good"):
        require_same_run(record(), checkpoint, tmp_path)
    assert find_checkpoint("last-good", tmp_path) == checkpoint.with_name("step10")


def test_a_record_is_plain_json(tmp_path: Path) -> None:
    record().write(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["world_size"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_state_goes_through_a_checkpoint_unchanged(tmp_path: Path) -> None:
    state = RunState(step=7, loader={"position": 224}, num_tokens=5, flops=2.5, wall_s=1.25)
    assert RunState.from_client_state({"other": 1, **state.to_client_state()}, tmp_path) == state
    with pytest.raises(UserError, match=r"checkpoint of pretrain\.py"):
        RunState.from_client_state({"other": 1}, tmp_path)


def test_a_run_from_elsewhere_that_was_cut_off_goes_on_from_there(tmp_path: Path) -> None:
    elsewhere = make_checkpoint(tmp_path / "elsewhere", "step20")
    output = tmp_path / "output"
    (output / "checkpoints").mkdir(parents=True)
    new = dataclasses.replace(record(), run={**record().run, "train": {"steps": 10, "global_batch_size": 4}})
    continue_record(output, new, checkpoint=elsewhere, step=20, old_events=[])
    assert find_checkpoint("auto", output) == elsewhere
    require_same_run(record(), elsewhere, output)  # the same command again is no other run
    own = make_checkpoint(output, "step30")
    assert find_checkpoint("auto", output) == own
    with pytest.raises(UserError, match="holds a run"):
        require_same_run(record(), elsewhere, output)
    shutil.rmtree(output / "checkpoints")
    shutil.rmtree(elsewhere)
    with pytest.raises(UserError, match=r"went on from.*step20"):
        find_checkpoint("auto", output)


def test_a_runs_folder_means_its_last_checkpoint_and_nothing_means_none(tmp_path: Path) -> None:
    own = make_checkpoint(tmp_path / "run", "step10")
    assert find_checkpoint(str(tmp_path / "run"), tmp_path / "other") == own
    with pytest.raises(UserError, match="Got ''"):
        find_checkpoint("", tmp_path)
