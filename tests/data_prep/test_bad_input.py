"""Every kind of bad input is refused in one line with its place, or skipped and counted: no silence, no traceback."""

from __future__ import annotations

import bz2
import ctypes
import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from backports import zstd

from data_prep.pipeline.parts import part_paths, read_report
from dsparse.data.manifest import Manifest
from tests.data.store_fixture import stdlib_documents
from tests.data_prep.corpus_fixture import ROOT

OPTIONS = ["--vocab-size", "400", "--heldout-fraction", "0.2", "--workers", "1"]
ENGLISH = "This is a line of text about number {}. It has a second sentence, too."


def lines_of_json(num: int) -> bytes:
    return "".join(json.dumps({"text": ENGLISH.format(n)}) + "\n" for n in range(num)).encode()


def torn(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


# Name of the file, its content, kind of source, reason, a part of its place.
BAD = {
    "not UTF-8 text": ("bad.txt", b"Fine here.\n\nNot f\xffne.", "text", "not UTF-8", "bad.txt, line 3"),
    "NUL bytes": ("binary.txt", b"GIF\0\0\0 some words follow it here", "text", "NUL bytes", "binary.txt"),
    "torn gz": ("a.jsonl.gz", torn(gzip.compress(lines_of_json(9000))), "jsonl", "torn file", "a.jsonl.gz"),
    "torn bz2": ("a.jsonl.bz2", torn(bz2.compress(lines_of_json(9000))), "jsonl", "torn file", "a.jsonl.bz2"),
    "torn zst": ("a.jsonl.zst", torn(zstd.compress(lines_of_json(9000))), "jsonl", "torn file", "a.jsonl.zst"),
    "no text": (
        "a.jsonl",
        b'{"text": "One is fine here."}\n{"txt": "other"}\n',
        "jsonl",
        "no text field",
        "a.jsonl, line 2",
    ),
    "not JSON": ("a.jsonl", b'{"text": "One is fine here."}\n\n{"text": \n', "jsonl", "not JSON", "a.jsonl, line 3"),
    "half a surrogate": ("a.jsonl", b'{"text": "a \\ud800 b"}\n', "jsonl", "lone surrogate", "a.jsonl, line 1"),
    "a long line": ("a.jsonl", b'{"text": "' + b"word " * 20_000_000 + b'"}\n', "jsonl", "too long", "a.jsonl, line 1"),
    "no Parquet": ("a.parquet", b"a table, says its name", "parquet", "not Parquet", "a.parquet"),
    "no XML": ("a.xml", b"<page><title>T</title><ns>0</ns><revision></page>", "wikipedia-xml", "not XML", "a.xml"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad_input") / "good"
    folder.mkdir()
    for number, text in enumerate(stdlib_documents()[:12]):
        (folder / f"{number}.txt").write_text(text[:2000], encoding="utf-8")
    return folder


def prepare(good: Path, more: str, out: Path, *flags: str, **process: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "data_prep/prepare.py"), "--source", f"text:{good}", "--source", more]
    command += ["--out", str(out), *OPTIONS, *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, **process)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("name", BAD)
def test_refused_or_skipped(good: Path, tmp_path: Path, name: str) -> None:
    file, content, kind, reason, place = BAD[name]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / file).write_bytes(content)
    source = f"{kind}:{tmp_path / 'bad' / file}"

    refused = prepare(good, source, tmp_path / "store")
    assert refused.returncode == 2 and refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
    assert reason in refused.stderr and place in refused.stderr and "--on-error skip" in refused.stderr
    assert not (tmp_path / "store").exists()

    skipped = prepare(good, source, tmp_path / "store", "--on-error", "skip")
    assert (skipped.returncode, skipped.stderr) == (0, "")
    assert f"1 {reason}" in skipped.stdout
    counts = {one.label: one for one in Manifest.read(tmp_path / "store").sources}
    assert counts[source].dropped[reason] == 1 and counts[f"text:{good}"].num_documents == 12
    problems = [one for path in part_paths(tmp_path / "store.work/extract") for one in read_report(path).problems]
    assert [problem.reason for problem in problems] == [reason] and place in problems[0].place


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty"), (b"Word", "too short"), (b"?!... -- 12\n", "no text")], ids=str
)
def test_nothing_to_learn_from_is_counted(good: Path, tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    done = prepare(good, f"text:{tmp_path / 'a.txt'}", tmp_path / "store")
    assert (done.returncode, done.stderr) == (0, "")
    assert Manifest.read(tmp_path / "store").sources[1].dropped == {reason: 1}


def bound_by_permissions() -> None:
    """In a child before its program starts: root without the right to read what its bits forbid."""
    prctl, drop_from_bounding_set = ctypes.CDLL(None).prctl, 24  # <linux/prctl.h>
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        prctl(drop_from_bounding_set, capability, 0, 0, 0)


def test_a_folder_nobody_may_read(good: Path, tmp_path: Path) -> None:
    (tmp_path / "more" / "secret").mkdir(parents=True)
    (tmp_path / "more" / "open.txt").write_text(ENGLISH.format(1))
    (tmp_path / "more" / "secret" / "hidden.txt").write_text(ENGLISH.format(2))
    (tmp_path / "more" / "secret").chmod(0)
    arguments = (good, f"text:{tmp_path / 'more'}", tmp_path / "store")
    refused = prepare(*arguments, preexec_fn=bound_by_permissions)
    assert refused.returncode == 2 and "unreadable" in refused.stderr and "secret" in refused.stderr, refused.stderr
    skipped = prepare(*arguments, "--on-error", "skip", preexec_fn=bound_by_permissions)
    assert (skipped.returncode, skipped.stderr) == (0, "")
    assert Manifest.read(tmp_path / "store").sources[1].dropped["unreadable"] == 1


@pytest.mark.slow
def test_any_bytes(good: Path, tmp_path: Path) -> None:
    """Files of every kind with bytes flipped, cut and doubled: exit code 0 or 2, one line at most, no traceback."""
    chance = random.Random(7)
    whole = {
        "jsonl": [lines_of_json(50), gzip.compress(lines_of_json(50)), zstd.compress(lines_of_json(50))],
        "text": [b"\n\n".join(ENGLISH.format(n).encode() for n in range(50)), bytes(range(256)) * 20],
        "wikipedia-xml": [b"<mediawiki><page><title>A</title><ns>0</ns><revision><text>'''A''' is [[b|c]]. {{d}} It is."
                          b"</text></revision></page></mediawiki>"] * 2,
        "gutenberg": [b"*** START OF THE PROJECT GUTENBERG EBOOK A ***\n" + ENGLISH.encode() + b"\n*** END OF"] * 2,
    }  # fmt: skip
    suffixes = {"jsonl": [".jsonl", ".jsonl.gz", ".jsonl.zst"], "text": [".txt"], "wikipedia-xml": [".xml"]}
    for turn in range(8):
        sources = []
        for kind, contents in whole.items():
            for number, content in enumerate(contents):
                data = bytearray(content)
                for _ in range(chance.randrange(1, 6)):
                    place = chance.randrange(len(data))
                    data[place] ^= 1 << chance.randrange(8)
                if chance.random() < 0.3:
                    del data[chance.randrange(len(data)) :]
                suffix = suffixes.get(kind, [".txt"])
                path = tmp_path / f"{turn}_{kind}_{number}{suffix[number % len(suffix)]}"
                path.write_bytes(data)
                sources += ["--source", f"{kind}:{path}"]
        command = [sys.executable, str(ROOT / "data_prep/prepare.py"), "--source", f"text:{good}", *sources]
        command += ["--out", str(tmp_path / f"store{turn}"), *OPTIONS]
        for flags in ([], ["--on-error", "skip"]):
            done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
            assert "Traceback" not in done.stderr and done.stderr.count("\n") <= 1
            assert done.returncode == (2 if done.stderr else 0), done.stderr
        assert done.returncode == 0, done.stderr
