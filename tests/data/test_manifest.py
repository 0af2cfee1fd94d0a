"""The manifest: what is written is read, and what is said when a store is missing, unfinished or another one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dsparse.data.manifest import Manifest, SourceCounts
from dsparse.errors import UserError
from dsparse.files import FileRecord
from tests.data.small import random_documents, rewrite_manifest, write_store, write_tokenizer


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "store", {"train": random_documents(1, 5), "heldout": random_documents(2, 3)})


def test_round_trip(store: Path) -> None:
    manifest = Manifest.read(store)
    source = SourceCounts(
        label="text:ä",
        weight=0.1,
        num_documents=7,
        num_sentences=8,
        num_tokens=9,
        num_bytes=10,
        dropped={"language": 2},
    )
    recipe = {"seed": 1, "sizes": [None], "share": 1e-9, "large": 2**70}
    again = replace(manifest, sources=[source], recipe=recipe, versions={"numpy": "2"})
    again.write(store)
    assert Manifest.read(store) == again
    assert sorted(path.suffix for path in store.iterdir()) == [".bin", ".bin", ".idx", ".idx", ".json", ".json"]


def test_shards_in_order(tmp_path: Path) -> None:
    documents = {"train": random_documents(1, 6), "heldout": random_documents(2, 3)}
    store = write_store(tmp_path / "store", documents, shard_sizes={"train": [1, 3, 2]})
    manifest = Manifest.read(store)
    assert manifest.prefixes(store, "train") == [store / f"train-0000{number}" for number in range(3)]
    assert manifest.prefixes(store, "heldout") == [store / "heldout-00000"]
    manifest.check(store)


def test_every_flipped_bit_is_found(store: Path) -> None:
    """Of every byte in turn one bit, another one for each."""
    path = store / "manifest.json"
    sound = path.read_bytes()
    for place in range(len(sound)):
        spoiled = bytearray(sound)
        spoiled[place] ^= 1 << place % 8
        path.write_bytes(spoiled)
        with pytest.raises(UserError, match=r"manifest\.json"):
            Manifest.read(store)


def test_file_record(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert FileRecord.of(tmp_path / "a") == FileRecord(num_bytes=3, sha256=sha256)


def test_check_gives_the_vocabulary(store: Path) -> None:
    assert Manifest.read(store).check(store).size == 100


def alter(store: Path, change: Callable[[str], str]) -> None:
    before = (store / "manifest.json").read_text()
    assert change(before) != before
    (store / "manifest.json").write_text(change(before))


SPOILED: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no manifest": (lambda s: (s / "manifest.json").unlink(), ["without manifest.json", "prepare.py", "--out"]),
    "no json": (lambda s: (s / "manifest.json").write_text("{"), ["manifest.json", "--overwrite"]),
    "a list": (lambda s: (s / "manifest.json").write_text("[]"), ["manifest.json", "--overwrite"]),
    "other version": (lambda s: rewrite_manifest(s, lambda c: c.update(format_version=3)), ["version 3", "version 2"]),
    "first version": (
        lambda s: rewrite_manifest(s, lambda c: c.update(format_version=1)),
        ["version 1", "make the store again", "--overwrite"],
    ),
    "unknown key": (lambda s: rewrite_manifest(s, lambda c: c.update(colour="red")), ["manifest.json", "colour"]),
    "missing key": (lambda s: rewrite_manifest(s, lambda c: c.pop("files")), ["manifest.json", "files"]),
    "a shard without files": (
        lambda s: rewrite_manifest(s, lambda c: c["shards"]["train"].append("train-00001")),
        ["manifest.json", "train-00001.bin"],
    ),
    "files without a shard": (
        lambda s: rewrite_manifest(s, lambda c: c["shards"].update(train=["heldout-00000"])),
        ["manifest.json", "train-00000.bin"],
    ),
    "a shard twice": (lambda s: rewrite_manifest(s, lambda c: c["shards"]["train"].append("train-00000")), ["twice"]),
    "a split without shards": (lambda s: rewrite_manifest(s, lambda c: c["shards"].pop("train")), ["each split"]),
    "a digest of something else": (
        lambda s: alter(s, lambda text: re.sub(r'(manifest_sha256": ")\w{4}', r"\g<1>0000", text)),
        ["manifest.json", "altered"],
    ),
    "a number that was altered": (
        lambda s: alter(s, lambda text: text.replace('"num_documents": 5', '"num_documents": 6')),
        ["manifest.json", "altered"],
    ),
    "white space": (lambda s: alter(s, lambda text: text + " "), ["manifest.json", "altered"]),
    "missing file": (lambda s: (s / "train-00000.bin").unlink(), ["train-00000.bin", "no such file"]),
    "short file": (lambda s: (s / "train-00000.bin").write_bytes(b"x"), ["train-00000.bin", "Got 1: it is truncated"]),
    "long file": (
        lambda s: (s / "heldout-00000.idx").write_bytes(b"x" * 9999),
        ["heldout-00000.idx", "Got 9999: it is altered"],
    ),
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


@pytest.mark.parametrize("name", ["../train-00000.bin", "/etc/passwd", "a/../../b"])
def test_names_cannot_lead_out_of_the_store(tmp_path: Path, name: str) -> None:
    documents = random_documents(0, 4)
    store = write_store(tmp_path / "store", {"train": documents, "heldout": documents})
    rewrite_manifest(store, lambda c: c["files"].update({name: c["files"]["tokenizer.json"]}))
    with pytest.raises(UserError, match="inside the store"):
        Manifest.read(store)
