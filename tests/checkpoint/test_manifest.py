"""A checkpoint is what its manifest says, to the byte."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsparse.checkpoint.manifest import MANIFEST, Manifest
from dsparse.errors import CheckpointError
from dsparse.files import FileRecord, leaving, write_hashed

FILES = {"model.pt": b"weights" * 100, "zero/a/fp32.pt": b"x", "empty.pt": b""}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small checkpoint."""
    folder = tmp_path / "step3"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    files = {name: FileRecord.of(folder / name) for name in FILES}
    Manifest(files=files, about={"global_steps": 3, "named": "ä"}).write(folder)
    return folder


def test_a_whole_checkpoint_has_no_problems(checkpoint: Path) -> None:
    manifest = Manifest.read(checkpoint)
    assert manifest.problems(checkpoint) == []
    assert manifest.about == {"global_steps": 3, "named": "ä"}


def flip(content: bytes, place: int) -> bytes:
    """With one byte changed."""
    return content[:place] + bytes([content[place] ^ 0x2A]) + content[place + 1 :]


@pytest.mark.parametrize("name", [name for name in FILES if FILES[name]])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(flip(path.read_bytes(), len(path.read_bytes()) // 2)), "checksum"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes instead of"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "bytes instead of"),
        (lambda path: path.unlink(), "missing"),
    ],
    ids=["flipped", "truncated", "longer", "deleted"],
)
def test_damage_is_named(checkpoint: Path, name: str, damage: Callable[[Path], None], said: str) -> None:
    damage(checkpoint / name)
    (problem,) = Manifest.read(checkpoint).problems(checkpoint)
    assert str(checkpoint / name) in problem and said in problem


def test_any_flipped_byte_of_the_manifest_is_seen(checkpoint: Path) -> None:
    content = (checkpoint / MANIFEST).read_bytes()
    for place in random.Random(0).sample(range(len(content)), 200):
        (checkpoint / MANIFEST).write_bytes(flip(content, place))
        with pytest.raises(CheckpointError, match=r"manifest\.json"):
            Manifest.read(checkpoint)


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_cut_off_manifest_is_seen(checkpoint: Path, length: int) -> None:
    content = (checkpoint / MANIFEST).read_bytes()
    (checkpoint / MANIFEST).write_bytes(content[:length])
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        Manifest.read(checkpoint)


def test_a_folder_without_manifest_is_no_checkpoint(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"without manifest\.json"):
        Manifest.read(checkpoint)


def test_a_file_that_is_not_listed_is_seen(checkpoint: Path) -> None:
    (checkpoint / "mp_rank_01_model_states.pt").write_bytes(b"")
    (problem,) = Manifest.read(checkpoint).problems(checkpoint)
    assert "mp_rank_01_model_states.pt does not belong there" in problem


def test_a_link_is_not_followed(checkpoint: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.pt"
    outside.write_bytes(FILES["model.pt"])
    (checkpoint / "model.pt").unlink()
    (checkpoint / "model.pt").symlink_to(outside)
    (problem,) = Manifest.read(checkpoint).problems(checkpoint)
    assert "is a link" in problem


@pytest.mark.parametrize("name", ["../model.pt", "/etc/passwd", "zero/../../x", "", ".", "a\\b", "zero//a", "C:x"])
def test_names_cannot_lead_out_of_the_folder(checkpoint: Path, name: str) -> None:
    files = dict(Manifest.read(checkpoint).files)
    Manifest(files={**files, name: files["model.pt"]}, about={}).write(checkpoint)
    with pytest.raises(CheckpointError, match="inside the checkpoint"):
        Manifest.read(checkpoint)


@given(st.text(alphabet="./ab\\", max_size=8))
def test_a_name_that_stays_inside_does(name: str) -> None:
    if not leaving([name]):
        root = Path("/root/of/checkpoint")
        assert root in Path(str(root), name).parents
        assert ".." not in name.split("/") and not name.startswith("/")


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"null",
        b'{"format": 1}',
        b'{"format": 2}',
        b'{"format": 1, "files": {}, "about": []}',
        b"\xff",
        b"{" * 5000,
    ],
)
def test_what_is_no_manifest_is_refused_in_one_line(checkpoint: Path, content: bytes) -> None:
    (checkpoint / MANIFEST).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        Manifest.read(checkpoint)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_there_twice_is_seen(checkpoint: Path) -> None:
    text = (checkpoint / MANIFEST).read_text()
    entry = json.dumps({"num_bytes": 1, "sha256": "0"})
    (checkpoint / MANIFEST).write_text(text.replace('"files": {', f'"files": {{"model.pt": {entry},'))
    with pytest.raises(CheckpointError, match="damaged"):
        Manifest.read(checkpoint)


@pytest.mark.parametrize("keys", [range(11), [10, 9, 1], ["a", 1]])
def test_keys_that_are_no_text_are_read_as_text(checkpoint: Path, keys: Sequence[object]) -> None:
    Manifest(files={}, about={"losses": {key: 0.5 for key in keys}}).write(checkpoint)
    assert Manifest.read(checkpoint).about == {"losses": {str(key): 0.5 for key in keys}}


def test_the_checksum_is_of_what_was_to_be_written(tmp_path: Path) -> None:
    def write(stream: object) -> None:
        for part in (b"abc", memoryview(b"def"), bytearray(b"")):
            stream.write(part)  # type: ignore[attr-defined]

    record = write_hashed(tmp_path / "a", write)
    assert (tmp_path / "a").read_bytes() == b"abcdef"
    assert record == FileRecord.of(tmp_path / "a")
