"""The command that shows a store: what it prints and draws, and what it says when it cannot."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from data_prep import inspect
from dsparse.data.loader import PretrainingData
from dsparse.data.manifest import MANIFEST, Manifest
from tests.data_prep.readable import DROPPED, make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("inspect") / "store", num_sources=2)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command in this process."""
    capsys.readouterr()
    try:
        inspect.main([str(argument) for argument in arguments])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_samples_and_summary(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, store)
    assert (code, err) == (0, "")
    total = PretrainingData(store).num_samples_per_epoch
    assert re.findall(r"^sample (\d) of (\d+) in epoch 0$", out, re.MULTILINE) == [
        (str(n), str(total)) for n in (1, 2, 3, 4)
    ]
    assert out.index("to be predicted") < out.index(f"{store}: ")


def test_settings_of_samples_are_used(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual = ["--samples", 1, "--seq-length", 64, "--split", "train", "--seed", 42, "--epoch", 0]
    shown = run(capsys, store, *usual)
    assert shown == run(capsys, store, *usual) == run(capsys, store, "--samples", 1, "--seq-length", 64)
    for place, other in ((3, 32), (5, "heldout"), (7, 1), (9, 1)):
        changed = [*usual[:place], other, *usual[place + 1 :]]
        assert run(capsys, store, *changed)[0] == 0
        assert run(capsys, store, *changed) != shown, changed


def test_the_numbers_of_the_summary(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, store, "--samples", 0)[1]
    assert "sample" not in out and "⟦" not in out
    manifest = Manifest.read(store)
    assert len(manifest.shards["train"]) > 1
    for split, counts in manifest.splits.items():
        numbers = [counts.num_documents, counts.num_sentences, counts.num_tokens, len(manifest.shards[split])]
        assert re.search(rf"^ +{' +'.join(f'{n:,}' for n in numbers)} +[\d.]+ kB +{split}$", out, re.MULTILINE), split
    for source in manifest.sources:
        numbers = [source.num_documents, source.num_sentences, source.num_tokens, 2, sum(DROPPED.values())]
        assert re.search(rf"^ +{' +'.join(f'{n:,}' for n in numbers)} +{source.label}$", out, re.MULTILINE)
    assert re.search(r"left out\n +60 +duplicate\n +8 +too short\n\n", out) and "no text" not in out
    assert "\n  python 3.11\n  code: clean 0123456789abcdef\n" in out
    assert all(line == line.rstrip() for line in out.splitlines())


def test_the_report(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, store, "--report", tmp_path / "report.png")
    assert (code, err) == (0, "") and "sample" not in out
    assert out.endswith(f"{tmp_path / 'report.png'} is the report\n")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "to be predicted" in run(capsys, store, "--samples", 1, "--report", tmp_path / "report.png")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--samples", "-1"], "--samples"),
        (["--samples", "some"], "'some'"),
        (["--seq-length", "7"], "--seq-length"),
        (["--seed", str(2**63)], "--seed"),
        (["--epoch", "1.5"], "--epoch"),
        (["--split", "test"], "train or heldout"),
        (["--report", "report.jpeg"], ".png or .pdf"),
        (["--report", "report"], ".png or .pdf"),
        (["--report", "no/such/folder/report.png"], "no/such/folder"),
    ],
)
def test_bad_arguments(store: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    code, out, err = run(capsys, store, *arguments)
    assert (code, out) == (2, "") and err.startswith("error: Expected ") and err.count("\n") == 1
    assert said in err


def test_a_folder_in_the_place_of_the_report(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").mkdir()
    code, out, err = run(capsys, store, "--report", tmp_path / "a.png")
    assert (code, out) == (2, "") and "a.png; give a name in it" in err


def test_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, tmp_path / "nowhere")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "prepare.py" in err


def test_an_altered_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "store")
    text = (store / MANIFEST).read_text()
    (store / MANIFEST).write_text(text.replace('"too short": 4', '"too short": 3'))
    for arguments in ([], ["--samples", 0], ["--report", tmp_path / "report.png"]):
        code, out, err = run(capsys, store, *arguments)
        assert (code, out) == (2, "") and err.count("\n") == 1 and "altered" in err
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
