"""Files decompressed block by block: whole ones to the last byte, torn ones up to the tear."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from data_prep.sources.base import TORN
from data_prep.sources.streams import BLOCK_BYTES, InputError, read_blocks
from tests.data_prep.sources.inputs import compressed, tears

COMPRESSED = [".bz2", ".gz", ".zst"]
NOISE = random.Random(0).randbytes(3000)


def read(path: Path) -> tuple[bytes, InputError | None]:
    blocks = []
    with open(path, "rb") as stream:
        try:
            for block in read_blocks(stream, path):
                assert len(block) <= BLOCK_BYTES
                blocks.append(block)
        except InputError as error:
            return b"".join(blocks), error
    return b"".join(blocks), None


@pytest.mark.parametrize("suffix", ["", *COMPRESSED])
@pytest.mark.parametrize("length", [0, 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 7])
def test_whole_files(tmp_path: Path, suffix: str, length: int) -> None:
    data = (NOISE * (length // len(NOISE) + 1))[:length]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(compressed(data, suffix))
    assert read(path) == (data, None)


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_streams_one_behind_the_other_and_zeros_behind_them(tmp_path: Path, suffix: str) -> None:
    """Dumps of many streams are such, and so is what `cat a.gz b.gz` makes."""
    path = tmp_path / f"a{suffix.upper()}"
    parts = [NOISE, b"", b"x" * BLOCK_BYTES * 2, b"end"]
    path.write_bytes(b"".join(compressed(part, suffix) for part in parts) + bytes(600_000))
    assert read(path) == (b"".join(parts), None)


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_what_expands_a_thousandfold_comes_in_blocks(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(compressed(bytes(1 << 26), suffix))
    assert path.stat().st_size < 1 << 17
    content, error = read(path)
    assert (len(content), error) == (1 << 26, None)


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_a_torn_file_is_read_up_to_the_tear(tmp_path: Path, suffix: str) -> None:
    parts = [NOISE, NOISE[::-1]]
    streams = [compressed(part, suffix) for part in parts]
    whole, path = b"".join(streams), tmp_path / f"a{suffix}"
    for length in tears(len(whole)):
        path.write_bytes(whole[:length])
        content, error = read(path)
        if length == len(streams[0]):
            # Nothing tells this file from one that had no second stream.
            assert (content, error) == (parts[0], None)
            continue
        assert error is not None and error.problem.reason == TORN, length
        assert error.problem.place.startswith(f"{path}, byte ")
        assert b"".join(parts).startswith(content)
        assert length < len(streams[0]) or content.startswith(parts[0])


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_damage_behind_a_good_stream_is_not_taken_for_the_end(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(compressed(NOISE, suffix) + b"not a stream at all" + compressed(NOISE, suffix))
    content, error = read(path)
    assert content == NOISE
    assert error is not None and error.problem.reason == TORN


@pytest.mark.parametrize("suffix", COMPRESSED)
@pytest.mark.parametrize("data", [b"plain text\n" * 50, bytes(100)])
def test_what_is_not_compressed_at_all(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    content, error = read(path)
    assert content == b""
    assert error is not None and error.problem.reason == TORN


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path) -> None:
    damaged = bytearray(gzip.compress(NOISE, compresslevel=0))
    damaged[len(damaged) // 2] ^= 1
    path = tmp_path / "a.gz"
    path.write_bytes(damaged)
    _, error = read(path)
    assert error is not None and error.problem.reason == TORN
