"""The manifest: what is written is read, and what is said when a store is missing, unfinished or another one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dsparse.data.manifest import Manifest
from dsparse.errors import UserError
from dsparse.files import FileRecord
from tests.data.small import random_documents, write_store, write_tokenizer


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "store", {"train": random_documents(1, 5), "heldout": random_documents(2, 3)})


def test_round_trip(store: Path) -> None:
    manifest = Manifest.read(store)
    again = Manifest(**{**vars(manifest), "sources": ["text:ä"], "arguments": {"seed": 1, "sizes": [None]}})
    again.write(store)
    assert Manifest.read(store) == again
    assert sorted(path.suffix for path in store.iterdir()) == [".bin", ".bin", ".idx", ".idx", ".json", ".json"]


def test_file_record(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert FileRecord.of(tmp_path / "a") == FileRecord(num_bytes=3, sha256=sha256)


def test_check_gives_the_vocabulary(store: Path) -> None:
    assert Manifest.read(store).check(store).size == 100


def rewrite(store: Path, change: Callable[[dict[str, object]], object]) -> None:
    content = json.loads((store / "manifest.json").read_text())
    change(content)
    (store / "manifest.json").write_text(json.dumps(content))


SPOILED: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no manifest": (lambda s: (s / "manifest.json").unlink(), ["without manifest.json", "prepare.py", "--out"]),
    "no json": (lambda s: (s / "manifest.json").write_text("{"), ["manifest.json", "--overwrite"]),
    "a list": (lambda s: (s / "manifest.json").write_text("[]"), ["manifest.json", "--overwrite"]),
    "other version": (lambda s: rewrite(s, lambda c: c.update(format_version=2)), ["version 2", "version 1"]),
    "unknown key": (lambda s: rewrite(s, lambda c: c.update(colour="red")), ["manifest.json", "colour"]),
    "missing key": (lambda s: rewrite(s, lambda c: c.pop("files")), ["manifest.json", "files"]),
    "missing file": (lambda s: (s / "train.bin").unlink(), ["train.bin", "no such file"]),
    "short file": (lambda s: (s / "train.bin").write_bytes(b"x"), ["train.bin", "Got 1: it is truncated"]),
    "long file": (lambda s: (s / "heldout.idx").write_bytes(b"x" * 9999), ["heldout.idx", "Got 9999: it is altered"]),
    "other tokenizer": (lambda s: write_tokenizer(s / "tokenizer.json", num_words=61), ["tokenizer", "sha256"]),
    "no tokenizer": (lambda s: (s / "tokenizer.json").unlink(), ["tokenizer.json", "no such file"]),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_is_wrong_is_named(store: Path, name: str) -> None:
    spoil, words = SPOILED[name]
    spoil(store)
    with pytest.raises(UserError) as error:
        Manifest.read(store).check(store)
    message = str(error.value)
    assert [word for word in words if word not in message] == [], message
    assert "\n" not in message


def test_a_missing_store_is_told_how_to_make(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        Manifest.read(tmp_path / "nowhere")
    assert f"python data_prep/prepare.py --source installed-docs --vocab-size 8192 --out {tmp_path}/nowhere" in str(
        error.value
    )


@pytest.mark.parametrize("name", ["../train.bin", "/etc/passwd", "a/../../b"])
def test_names_cannot_lead_out_of_the_store(tmp_path: Path, name: str) -> None:
    documents = random_documents(0, 4)
    store = write_store(tmp_path / "store", {"train": documents, "heldout": documents})
    path = store / "manifest.json"
    content = json.loads(path.read_text())
    content["files"][name] = content["files"]["train.bin"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="inside the store"):
        Manifest.read(store)
