"""Every altered byte of a store is found, and a sound one is called so."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep import verify
from dsparse.files import FileRecord
from tests.data.small import random_documents, rewrite_manifest, write_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    documents = {"train": random_documents(1, 6), "heldout": random_documents(2, 3)}
    return write_store(tmp_path / "store", documents, shard_sizes={"train": [2, 4]})


def run(store: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    try:
        verify.main([str(store)])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_a_sound_store(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(store, capsys)
    assert (code, err) == (0, "") and out.startswith(f"{store}: sound, ") and out.count("\n") == 1


PAIRS = ("train-00000", "train-00001", "heldout-00000")
FILES = [*(f"{pair}{suffix}" for pair in PAIRS for suffix in (".bin", ".idx")), "tokenizer.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_an_altered_byte_is_found(store: Path, capsys: pytest.CaptureFixture[str], name: str, place: float) -> None:
    path = store / name
    content = bytearray(path.read_bytes())
    content[int(place * len(content)) if place > 0 else int(place)] ^= 1
    path.write_bytes(content)
    code, out, err = run(store, capsys)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
    assert name in err


def rewrite_hash(store: Path, name: str) -> None:
    """As if the file had been written so."""
    rewrite_manifest(store, lambda content: content["files"].update({name: vars(FileRecord.of(store / name))}))


def test_structure_is_checked_beyond_hashes(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = bytearray((store / "train-00001.bin").read_bytes())
    tokens[2:4] = (100).to_bytes(2, "little")
    (store / "train-00001.bin").write_bytes(tokens)
    rewrite_hash(store, "train-00001.bin")
    err = run(store, capsys)[2]
    assert "train-00001.bin: token 1 is 100, not one of the 100 ids" in err


def test_counts_are_checked(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite_manifest(store, lambda content: content["splits"]["heldout"].update(num_documents=4))
    code, _, err = run(store, capsys)
    assert code == 2 and "heldout holds" in err and "num_documents=4" in err


def test_a_truncated_file_and_a_missing_store(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (store / "train-00001.bin").write_bytes((store / "train-00001.bin").read_bytes()[:-2])
    code, _, err = run(store, capsys)
    assert code == 2 and "train-00001.bin" in err and "truncated" in err
    code, _, err = run(store / "nowhere", capsys)
    assert code == 2 and "prepare.py" in err
