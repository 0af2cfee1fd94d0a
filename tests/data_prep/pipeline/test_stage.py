"""A stage is run once; again only where its input, options, code or libraries changed, and then what is missing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from data_prep.pipeline import stage as module
from data_prep.pipeline.inputs import InputRecord
from data_prep.pipeline.parts import part_path
from data_prep.pipeline.stage import Context, run_stage
from data_prep.recipe import Recipe, SourceSpec
from data_prep.sources.parse import parse_source
from dsparse.errors import UserError


@dataclass(frozen=True)
class Count:
    """Writes as many files as its option says, each once."""

    name: str = "count"
    reads: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ("numpy",)
    made: list[str] = field(default_factory=list)
    stop_after: int = 99

    def options(self, recipe: Recipe) -> dict[str, Any]:
        return {"seed": recipe.seed}

    def run(self, context: Context) -> dict[str, Any]:
        for number in range(3):
            path = part_path(context.folder(self.name), number)
            if len(self.made) == self.stop_after:
                raise KeyboardInterrupt
            if not path.exists():
                path.write_text(f"{context.recipe.seed % 7}")
                self.made.append(path.stem.lstrip("0") or "0")
        return {"said": "counted"}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    (tmp_path / "a.txt").write_text("A text.")
    recipe = Recipe(sources=(SourceSpec(source=f"text:{tmp_path}"),), out=tmp_path / "out", work=tmp_path / "work")
    record = InputRecord(num_files=1, num_bytes=7, sha256="1")
    return Context(recipe=recipe, sources=[parse_source(f"text:{tmp_path}")], inputs=[record])


def with_recipe(context: Context, **changes: Any) -> Context:
    return replace(context, recipe=replace(context.recipe, **changes))


def test_once(context: Context, capsys: pytest.CaptureFixture[str]) -> None:
    stage = Count()
    record = run_stage(stage, context)
    assert sorted(record.outputs) == [f"00000{n}.parquet" for n in range(3)] and record.summary == {"said": "counted"}
    assert run_stage(stage, context) == record
    assert stage.made == ["0", "1", "2"]
    assert capsys.readouterr().out.endswith("count: done before\n")


def test_interrupted_it_goes_on(context: Context) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_stage(Count(stop_after=2), context)
    rest = Count()
    run_stage(rest, context)
    assert rest.made == ["2"]


@pytest.mark.parametrize("what", ["options", "inputs", "code", "libraries"])
def test_what_changed_is_made_anew(
    context: Context, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_stage(Count(), context)
    other = context
    if what == "options":
        other = with_recipe(context, seed=1)
    elif what == "inputs":
        other = replace(context, inputs=[replace(context.inputs[0], sha256="2")])
    elif what == "code":
        monkeypatch.setattr(module, "code_version", lambda *_, **__: "another")
    else:
        monkeypatch.setattr(module, "library_versions", lambda names: dict.fromkeys(names, "9.9"))
    stage = Count()
    run_stage(stage, other)
    assert stage.made == ["0", "1", "2"]
    assert f"made anew, for its {what} changed" in capsys.readouterr().out


def test_what_decides_nothing_changes_nothing(context: Context) -> None:
    run_stage(Count(), context)
    stage = Count()
    run_stage(stage, with_recipe(context, workers=7, vocab_size=300, on_error="skip"))
    assert stage.made == []


@pytest.mark.parametrize("damage", ["gone", "shorter", "record"])
def test_a_lost_output_is_made_again(context: Context, damage: str) -> None:
    run_stage(Count(), context)
    folder = context.folder("count")
    if damage == "gone":
        part_path(folder, 1).unlink()
    elif damage == "shorter":
        part_path(folder, 1).write_text("")
        part_path(folder, 1).unlink()
    else:
        (folder / "stage.json").write_text('{"key"')
    stage = Count()
    run_stage(stage, context)
    assert stage.made == ([] if damage == "record" else ["1"])


def test_the_same_outputs_leave_later_stages_alone(context: Context) -> None:
    """Seeds 42 and 49 make the same files here."""
    later = Count(name="later", reads=("count",))
    run_stage(Count(), context)
    run_stage(replace(later, made=[]), context)
    other = with_recipe(context, seed=49)
    first = Count()
    run_stage(first, other)
    assert first.made == ["0", "1", "2"]
    key = json.loads((context.folder("later") / "key.json").read_text())
    assert module.key_of(later, other)["inputs"] == key["inputs"]
    run_stage(Count(), with_recipe(context, seed=1))
    assert module.key_of(later, context)["inputs"] != key["inputs"]


def test_a_stage_before_it_is_missing(context: Context) -> None:
    with pytest.raises(UserError, match=r"the stage count to be done .* data_prep/count\.py first"):
        run_stage(Count(name="later", reads=("count",)), context)


def test_other_peoples_folders_are_safe(context: Context) -> None:
    folder = context.folder("count")
    folder.mkdir(parents=True)
    (folder / "letter.txt").write_text("dear")
    (folder / "key.json").write_text("{}")
    with pytest.raises(UserError, match=r"'letter\.txt' in it; give another --work"):
        run_stage(Count(), context)
    assert (folder / "letter.txt").read_text() == "dear"


def test_what_a_kill_leaves_is_ours(context: Context) -> None:
    folder = context.folder("count")
    folder.mkdir(parents=True)
    (folder / ".key.json.123.partial").write_text("{")
    part_path(folder, 7).write_text("without a key")
    stage = Count()
    run_stage(stage, context)
    assert stage.made == ["0", "1", "2"] and not part_path(folder, 7).exists()


def test_clearing_may_be_interrupted(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key goes last, so what is left is known to be ours."""
    run_stage(Count(), context)
    other = with_recipe(context, seed=1)
    unlink, removed = Path.unlink, []

    def killed(path: Path, missing_ok: bool = False) -> None:
        if len(removed) == 2:
            raise KeyboardInterrupt
        removed.append(path.name)
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed)
        run_stage(Count(), other)
    stage = Count()
    run_stage(stage, other)
    assert stage.made == ["0", "1", "2"]


def test_skipped_input_is_refused_when_asked(context: Context) -> None:
    class Bad(Count):
        def run(self, context: Context) -> dict[str, Any]:
            return {"sources": {"a": {"problems": [["torn file", "a.gz, byte 7", "fetch it again"]]}}}

    run_stage(Bad(), with_recipe(context, on_error="skip"))
    run_stage(Bad(), with_recipe(context, on_error="skip"))
    with pytest.raises(
        UserError, match=r"in a\.gz, byte 7\. Got: torn file; fetch it again, or leave it out with --on-error skip"
    ):
        run_stage(Bad(), context)
