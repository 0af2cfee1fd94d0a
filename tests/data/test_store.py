"""The indexed format: every byte by hand, round trips, and what is said of files that are not whole."""

from __future__ import annotations

import itertools
import pickle
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsparse.data import store as store_module
from dsparse.data import writer as writer_module
from dsparse.data.store import TokenStore, smallest_dtype
from dsparse.data.writer import IndexedWriter
from dsparse.errors import UserError

DOCUMENTS = [[[5, 6, 7], [8]], [[9, 500]]]
UINT16, INT32 = np.dtype("<u2"), np.dtype("<i4")


def write(prefix: Path, documents: list[list[list[int]]], dtype: np.dtype[np.integer] = UINT16) -> TokenStore:
    with IndexedWriter(prefix, dtype) as writer:
        for document in documents:
            writer.add_document([i for sentence in document for i in sentence], [len(s) for s in document])
    return TokenStore(prefix)


def read_back(store: TokenStore) -> list[list[list[int]]]:
    bounds = store.documents.tolist()
    return [[store.sentence(i).tolist() for i in range(begin, end)] for begin, end in itertools.pairwise(bounds)]


def test_bytes_of_the_index(tmp_path: Path) -> None:
    write(tmp_path / "train", DOCUMENTS)
    assert (tmp_path / "train.idx").read_bytes() == bytes.fromhex(
        "4d4d494449445800 00"  # MMIDIDX and two zeros
        "0100000000000000"  # version 1
        "08"  # uint16
        "0300000000000000"  # three sentences
        "0300000000000000"  # two documents and the end
        "03000000 01000000 02000000"  # lengths
        "0000000000000000 0600000000000000 0800000000000000"  # where they begin, bytes
        "0000000000000000 0200000000000000 0300000000000000"  # first sentences, and the end
    )


def test_bytes_of_the_tokens(tmp_path: Path) -> None:
    write(tmp_path / "a", DOCUMENTS)
    assert (tmp_path / "a.bin").read_bytes() == bytes.fromhex("0500 0600 0700 0800 0900 f401")
    write(tmp_path / "b", DOCUMENTS, INT32)
    assert (tmp_path / "b.bin").read_bytes() == struct.pack("<6i", 5, 6, 7, 8, 9, 500)
    assert (tmp_path / "b.idx").read_bytes()[17] == 4


def test_what_megatron_writes_is_read(tmp_path: Path) -> None:
    """Bytes put together as Megatron-LM's _IndexWriter does, with a dtype that ours never chooses."""
    tokens = np.asarray([1, 2, 3, 4, 5], np.int64)
    (tmp_path / "m.bin").write_bytes(tokens.tobytes(order="C"))
    with open(tmp_path / "m.idx", "wb") as stream:
        stream.write(b"MMIDIDX\x00\x00")
        stream.write(struct.pack("<Q", 1))
        stream.write(struct.pack("<B", 5))
        stream.write(struct.pack("<Q", 2))
        stream.write(struct.pack("<Q", 3))
        stream.write(np.array([3, 2], dtype=np.int32).tobytes(order="C"))
        stream.write(np.array([0, 24], dtype=np.int64).tobytes(order="C"))
        stream.write(np.array([0, 1, 2], dtype=np.int64).tobytes(order="C"))
    store = TokenStore(tmp_path / "m")
    assert read_back(store) == [[[1, 2, 3]], [[4, 5]]]
    assert store.problems(vocab_size=6) == []


@given(
    documents=st.lists(
        st.lists(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=5), min_size=1, max_size=5), max_size=8
    ),
    dtype=st.sampled_from([UINT16, INT32]),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[list[int]]], dtype: np.dtype[np.integer]
) -> None:
    store = write(tmp_path_factory.mktemp("trip") / "train", documents, dtype)
    assert read_back(store) == documents
    assert store.num_documents == len(documents)
    assert store.num_sentences == sum(map(len, documents))
    assert store.num_tokens == sum(len(s) for d in documents for s in d)
    assert store.tokens.dtype == dtype
    assert store.problems(vocab_size=2**16) == []


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_larger_than_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    write(tmp_path / "whole", DOCUMENTS)
    for module in (store_module, writer_module):
        monkeypatch.setattr(module, "CHUNK", chunk)
    store = write(tmp_path / "chunks", DOCUMENTS)
    assert (tmp_path / "chunks.idx").read_bytes() == (tmp_path / "whole.idx").read_bytes()
    assert store.problems(vocab_size=501) == []
    assert len(store.problems(vocab_size=500)) == 1


def test_token_offsets(tmp_path: Path) -> None:
    store = write(tmp_path / "train", DOCUMENTS)
    assert store.token_offsets(np.asarray([[0, 1], [2, 3]])).tolist() == [[0, 3], [4, 6]]


def test_a_worker_maps_the_files_itself(tmp_path: Path) -> None:
    store = write(tmp_path / "train", [[[1] * 10_000]])
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent).tokens, store.tokens)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_system_reads_ahead_only_in_order(tmp_path: Path) -> None:
    store = write(tmp_path / "train", DOCUMENTS)
    at_random = {"train.bin": True, "train.idx": True}
    assert is_read_at_random(tmp_path) == at_random
    with store.in_order():
        assert is_read_at_random(tmp_path) == {"train.bin": False, "train.idx": False}
    assert is_read_at_random(tmp_path) == at_random


def is_read_at_random(folder: Path) -> dict[str, bool]:
    """Of the files of a folder that this process maps."""
    found, name = {}, None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            name = Path(line.split()[-1]).name if str(folder) in line else None
        elif name is not None and line.startswith("VmFlags:"):
            found[name] = "rr" in line.split()
    return found


@pytest.mark.parametrize(("vocab_size", "dtype"), [(1024, UINT16), (65499, UINT16), (65500, INT32), (250_000, INT32)])
def test_smallest_dtype(vocab_size: int, dtype: np.dtype[np.integer]) -> None:
    assert smallest_dtype(vocab_size) == dtype


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "train", UINT16) as writer:
        writer.add_document([1, 2], [2])
        assert not (tmp_path / "train.bin").exists() and not (tmp_path / "train.idx").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.bin", "train.idx"]


def test_an_error_leaves_nothing_new(tmp_path: Path) -> None:
    write(tmp_path / "train", DOCUMENTS)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RuntimeError), IndexedWriter(tmp_path / "train", UINT16) as writer:
        writer.add_document([1, 2], [2])
        raise RuntimeError
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_ids_that_do_not_fit_are_never_written(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="dtype"), IndexedWriter(tmp_path / "train", UINT16) as writer:
        writer.add_document([65536], [1])
    assert list(tmp_path.iterdir()) == []


def cut(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-num_bytes])


def put(path: Path, place: int, value: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[place : place + len(value)] = value
    path.write_bytes(content)


SPOILED: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "tokens cut": (lambda d: cut(d / "train.bin", 2), ["train.bin", "12 bytes", "Got 10", "truncated"]),
    "tokens too long": (lambda d: (d / "train.bin").write_bytes(b"\0" * 14), ["train.bin", "12 bytes", "Got 14"]),
    "index cut": (lambda d: cut(d / "train.idx", 1), ["train.idx", "94 bytes", "Got 93", "truncated"]),
    "header cut": (lambda d: cut(d / "train.idx", 70), ["train.idx", "MMIDIDX"]),
    "index empty": (lambda d: cut(d / "train.idx", 94), ["train.idx", "MMIDIDX"]),
    "other magic": (lambda d: put(d / "train.idx", 0, b"TNTIDX"), ["train.idx", "MMIDIDX", "TNTIDX"]),
    "other version": (lambda d: put(d / "train.idx", 9, b"\x02"), ["train.idx", "version 2"]),
    "unknown dtype": (lambda d: put(d / "train.idx", 17, b"\x63"), ["train.idx", "code 99"]),
    "documents that do not end": (lambda d: put(d / "train.idx", 86, b"\x02"), ["train.idx", "0 to 3", "0 to 2"]),
    "no tokens": (lambda d: (d / "train.bin").unlink(), ["train.bin", "none"]),
    "no index": (lambda d: (d / "train.idx").unlink(), ["train.idx", "none"]),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_file_that_is_not_whole_is_named(tmp_path: Path, name: str) -> None:
    spoil, words = SPOILED[name]
    write(tmp_path / "train", DOCUMENTS)
    spoil(tmp_path)
    with pytest.raises(UserError) as error:
        TokenStore(tmp_path / "train")
    message = str(error.value)
    assert [word for word in [*words, "prepare.py --overwrite"] if word not in message] == [], message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (34, b"\x02", "sentence 1 is empty or does not begin"),
        (54, b"\x04", "sentence 1 is empty or does not begin"),
        (78, b"\x00", "document 0 holds no sentence"),
    ],
)
def test_inner_errors_of_the_index_are_problems(tmp_path: Path, place: int, value: bytes, words: str) -> None:
    write(tmp_path / "train", DOCUMENTS)
    put(tmp_path / "train.idx", place, value)
    assert [words in problem for problem in TokenStore(tmp_path / "train").problems(501)] == [True]


def test_tokens_outside_the_vocabulary_are_problems(tmp_path: Path) -> None:
    (problem,) = write(tmp_path / "train", DOCUMENTS).problems(vocab_size=500)
    assert "token 5 is 500" in problem and "500 ids" in problem
