"""The command from text to store: what it writes, that it does it once, and what it says when it cannot."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_prep import assemble, prepare, verify
from data_prep.text.filters import Filters
from data_prep.text.tokenizer import read_tokenizer
from dsparse.data.loader import MicroBatches, PretrainingData
from dsparse.data.manifest import Manifest
from dsparse.data.store import TokenStore
from dsparse.errors import UserError
from tests.data.store_fixture import stdlib_documents

ROOT = Path(__file__).resolve().parents[2]
STORE_FILES = [
    *("heldout-00000.bin", "heldout-00000.idx", "manifest.json", "tokenizer.json", "train-00000.bin", "train-00000.idx")
]
ARGUMENTS = ["--vocab-size", "600", "--heldout-fraction", "0.2", "--workers", "1"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 30 small files of real English."""
    folder = tmp_path_factory.mktemp("prepare") / "texts"
    folder.mkdir()
    texts = (text[:4000] for text in stdlib_documents())
    kept = [text for text in texts if Filters().why_dropped(text) is None][:30]
    assert len(kept) == 30
    for number, text in enumerate(kept):
        (folder / f"{number:02d}.txt").write_text(text, encoding="utf-8")
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command in this process."""
    capsys.readouterr()
    try:
        prepare.main([str(argument) for argument in arguments])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def made(texts: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The store of the folder, made as a user makes it: by the script, from elsewhere."""
    out = texts.parent / "deep" / "down" / "store"
    command = [sys.executable, str(ROOT / "data_prep/prepare.py"), "--source", f"text:{texts}", "--out", str(out)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command += [*ARGUMENTS[:-1], "2"]
    done = subprocess.run(command, cwd=texts, env=environment, capture_output=True, text=True, check=True)
    return out, done


def test_what_is_written(made: tuple[Path, subprocess.CompletedProcess[str]], texts: Path) -> None:
    out, done = made
    assert sorted(path.name for path in out.iterdir()) == STORE_FILES
    assert sorted(path.name for path in out.parent.iterdir()) == ["store", "store.work"]
    assert done.stderr == "" and done.stdout.splitlines()[-2].startswith(f"{out}: ")
    manifest = Manifest.read(out)
    assert manifest.vocab_size == 600
    assert manifest.special_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert [(source["source"], source["num_files"]) for source in manifest.recipe["sources"]] == [(f"text:{texts}", 30)]
    (source,) = manifest.sources
    for name in ("num_documents", "num_sentences", "num_tokens", "num_bytes"):
        assert getattr(source, name) == sum(getattr(counts, name) for counts in manifest.splits.values())
    assert {"python", "tokenizers", "sentencex", "code of encode"} <= set(manifest.versions)
    assert set(manifest.files) == {*STORE_FILES} - {"manifest.json"}
    assert sum(counts.num_documents for counts in manifest.splits.values()) == 30
    assert 2 <= manifest.splits["heldout"].num_documents <= 12
    assert all(counts.num_bytes > 2 * counts.num_tokens for counts in manifest.splits.values())
    assert verify.verify(out) == manifest


def test_the_tokens_are_the_text(made: tuple[Path, subprocess.CompletedProcess[str]], texts: Path) -> None:
    out, _ = made
    tokenizer = read_tokenizer(out / "tokenizer.json")
    encoded = {tuple(tokenizer.encode(path.read_text(), add_special_tokens=False).ids) for path in texts.iterdir()}
    found = set()
    for split in ("train", "heldout"):
        store = TokenStore(out / f"{split}-00000")
        assert store.tokens.dtype == np.dtype("<u2")
        ends = store.token_offsets(store.documents)
        found |= {tuple(store.tokens[a:b].tolist()) for a, b in itertools.pairwise(ends)}
    # Sentences are encoded one by one, and no word goes across two.
    assert found == encoded


def test_it_can_be_trained_on(made: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    data = PretrainingData(made[0], seq_length=32)
    batch, _ = next(iter(MicroBatches(data, micro_batch_size=8, rank=0, world_size=1)))
    assert batch["input_ids"].shape == (8, 32)
    assert (batch["labels"] >= 0).any(dim=1).all()


def test_again_it_is_complete(
    made: tuple[Path, subprocess.CompletedProcess[str]], texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = made
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    code, said, _ = run(capsys, "--source", f"text:{texts}", "--out", out, *ARGUMENTS)
    assert code == 0 and "is complete" in said
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_other_arguments_need_overwrite(
    made: tuple[Path, subprocess.CompletedProcess[str]], texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = made
    code, _, err = run(capsys, "--source", f"text:{texts}", "--out", out, *ARGUMENTS, "--seed", "1")
    assert code == 2 and "seed was 42, now 1" in err and "--overwrite" in err and err.count("\n") == 1


def test_changed_text_needs_overwrite(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"text": path.read_text()}) + "\n" for path in sorted(texts.iterdir())]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    arguments = ["--source", f"jsonl:{tmp_path / 'a.jsonl'}", "--out", tmp_path / "store", *ARGUMENTS]
    assert run(capsys, *arguments)[0] == 0
    (tmp_path / "a.jsonl").write_text("".join(lines) + json.dumps({"text": "One more document. It is short."}))
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "sources was" in err and "--overwrite" in err and err.count("\n") == 1
    code, said, _ = run(capsys, *arguments, "--overwrite")
    assert code == 0 and "extract: made anew, for its inputs changed" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "store", "store.work"]
    assert sum(counts.num_documents for counts in Manifest.read(tmp_path / "store").splits.values()) == 31


def test_the_same_bytes_with_any_number_of_workers(
    made: tuple[Path, subprocess.CompletedProcess[str]], texts: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The fixture's store was made by another process with two workers."""
    assert run(capsys, "--source", f"text:{texts}", "--out", tmp_path / "store", *ARGUMENTS)[0] == 0
    for name in STORE_FILES:
        assert (tmp_path / "store" / name).read_bytes() == (made[0] / name).read_bytes(), name


def test_a_given_tokenizer(
    made: tuple[Path, subprocess.CompletedProcess[str]], texts: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = made[0] / "tokenizer.json"
    arguments = ["--source", f"text:{texts}", "--out", tmp_path / "store", *ARGUMENTS, "--seed", "3"]
    assert run(capsys, *arguments, "--tokenizer", given)[0] == 0
    assert (tmp_path / "store/tokenizer.json").read_bytes() == given.read_bytes()
    assert Manifest.read(tmp_path / "store").recipe["tokenizer_sha256"] == Manifest.read(made[0]).tokenizer_sha256
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "tokenizer_sha256 was" in err


def test_held_out_documents_stay_held_out(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Adding text moves no document from one split to the other."""
    splits = []
    for number, upto in enumerate((22, 30)):
        some = tmp_path / f"texts{number}"
        some.mkdir()
        for path in sorted(texts.iterdir())[:upto]:
            (some / path.name).write_bytes(path.read_bytes())
        out = tmp_path / f"store{number}"
        tokenizer = ["--tokenizer", tmp_path / "store0/tokenizer.json"] if number else []
        assert run(capsys, "--source", f"text:{some}", "--out", out, *ARGUMENTS, *tokenizer)[0] == 0
        store = TokenStore(out / "heldout-00000")
        ends = store.token_offsets(store.documents)
        splits.append({store.tokens[a:b].tobytes() for a, b in itertools.pairwise(ends)})
    assert splits[0] and splits[0] <= splits[1]


ENGLISH = "This is a file with a sentence. It has another one. "


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.txt": ""}, ["at least 4 documents", "Got 0"]),
        (
            {"a.txt": " ".join(f"Sentence {i} is new, with the number {i * i} in it." for i in range(50))},
            ["at least 4 documents", "Got 1"],
        ),
        ({f"{i}.txt": f"Just one sentence, number {i}." for i in range(9)}, ["the longest of 1 sentences"]),
        ({"a.txt": "\udcff"}, ["not UTF-8", "a.txt, line 1", "--on-error skip"]),
        ({"a.pdf": "x"}, ["*.txt", "Got none"]),
    ],
    ids=["empty", "one document", "no pairs", "not UTF-8", "no text"],
)
def test_too_little_text_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, str], words: list[str]
) -> None:
    (tmp_path / "in").mkdir()
    for name, text in files.items():
        (tmp_path / "in" / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    code, _, err = run(
        capsys, "--source", f"text:{tmp_path / 'in'}", "--out", tmp_path / "new/store", "--workers", "1",
    )  # fmt: skip
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert [word for word in words if word not in err] == [], err
    assert not (tmp_path / "new/store").exists()


def test_enough_is_held_out_and_enough_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for number in range(30):
        (tmp_path / f"in/{number}.txt").write_text(ENGLISH * (number % 3) + f"Number {number} ends.")
    arguments = ["--source", f"text:{tmp_path / 'in'}", "--out", tmp_path / "store", "--workers", "1"]
    assert run(capsys, *arguments, "--heldout-fraction", "0.000001")[0] == 0
    assert Manifest.read(tmp_path / "store").splits["heldout"].num_documents >= 2
    assert PretrainingData(tmp_path / "store", split="heldout", seq_length=16).num_samples_per_epoch >= 2
    code, _, err = run(capsys, *arguments, "--heldout-fraction", "0.999999", "--overwrite")
    assert code == 2 and "in the train split. Got 0 documents" in err and "now 0.999999" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--vocab-size", "100"], "--vocab-size from 256"),
        (["--heldout-fraction", "1"], "--heldout-fraction in (0, 1)"),
        (["--workers", "0"], "--workers from 1"),
        (["--seed", "-1"], "--seed from 0"),
        (["--max-documents", "0"], "--max-documents from 1"),
        (["--tokenizer", "nowhere.json"], "nowhere.json"),
        (["--on-error", "ignore"], "--on-error to be one of refuse, skip"),
        (["--near-duplicates", "2"], "--near-duplicates in [0.5, 1), or off"),
        (["--filter", "min_words=many"], "min_words"),
        (["--filter", "no_such=1"], "no_such"),
        (["--recipe", "nowhere.yaml"], "nowhere.yaml"),
        (["--source", "nonsense"], "nonsense"),
    ],
)
def test_bad_arguments(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    code, _, err = run(capsys, "--source", f"text:{texts}", "--out", tmp_path / "store", *arguments)
    assert code == 2 and words in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where_it_came_from(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        prepare.main(["--source", "nonsense", "--out", str(tmp_path / "store"), "--debug"])


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_other_peoples_folders_are_safe(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter.txt").write_text("dear")
    (tmp_path / "home/manifest.json").write_text("{}")
    code, _, err = run(capsys, "--source", f"text:{texts}", "--out", tmp_path / "home", *ARGUMENTS, *flags)
    assert code == 2 and "holds something else" in err
    assert (tmp_path / "home/letter.txt").read_text() == "dear"


def test_a_store_without_a_manifest_is_replaced_when_told(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/train.bin").write_bytes(b"half")
    arguments = ["--source", f"text:{texts}", "--out", tmp_path / "store", *ARGUMENTS]
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "manifest.json" in err and "--overwrite" in err
    assert run(capsys, *arguments, "--overwrite")[0] == 0
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == STORE_FILES


def test_an_edit_that_keeps_size_and_time_is_noticed(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Inputs count by their content."""
    lines = "".join(json.dumps({"text": path.read_text()}) + "\n" for path in sorted(texts.iterdir()))
    source = tmp_path / "a.jsonl"
    source.write_text(lines)
    arguments = ["--source", f"jsonl:{source}", "--out", tmp_path / "store", *ARGUMENTS]
    assert run(capsys, *arguments)[0] == 0
    stat = source.stat()
    source.write_text(lines.replace("the", "teh", 1))
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "sources was" in err


def test_only_what_changed_is_done_again(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--source", f"text:{texts}", "--out", tmp_path / "store", *ARGUMENTS]
    assert run(capsys, *arguments)[0] == 0
    code, said, _ = run(capsys, *arguments, "--vocab-size", "700", "--overwrite")
    assert code == 0
    done = [line.partition(":")[0] for line in said.splitlines() if line.endswith(": done before")]
    assert done == ["extract", "clean", "deduplicate", "sentences"]
    assert "vocabulary: made anew, for its options changed" in said
    assert "encode: made anew, for its inputs changed" in said


def test_weights(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training documents of a source of weight 2.5 are there two or three times, those held out once."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, path in enumerate(sorted(texts.iterdir())):
        folders[number % 2].mkdir(exist_ok=True)
        (folders[number % 2] / path.name).write_bytes(path.read_bytes())
    sources = [{"source": f"text:{folders[0]}", "weight": 2.5}, f"text:{folders[1]}"]
    recipe = {"sources": sources, "vocab_size": 600, "heldout_fraction": 0.2, "out": str(tmp_path / "store")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run(capsys, "--recipe", tmp_path / "recipe.yaml", "--workers", "1")[0] == 0
    copies: dict[str, Counter[bytes]] = {}
    for split in ("train", "heldout"):
        store = TokenStore(tmp_path / f"store/{split}-00000")
        ends = store.token_offsets(np.asarray(store.documents))
        copies[split] = Counter(store.tokens[a:b].tobytes() for a, b in itertools.pairwise(ends))
    assert set(copies["heldout"].values()) == {1}
    tokenizer = read_tokenizer(tmp_path / "store/tokenizer.json")
    found = {}
    for path in texts.iterdir():
        ids = np.asarray(tokenizer.encode(path.read_text(), add_special_tokens=False).ids, "<u2").tobytes()
        found[path.name] = copies["train"][ids]
    heavy = {found[path.name] for path in folders[0].iterdir() if found[path.name]}
    assert heavy == {2, 3}
    assert {found[path.name] for path in folders[1].iterdir() if found[path.name]} == {1}
    manifest = Manifest.read(tmp_path / "store")
    assert [source.weight for source in manifest.sources] == [2.5, 1.0]
    assert manifest.sources[0].num_documents > 2 * manifest.sources[1].num_documents * 0.8


def test_a_weight_below_one_leaves_documents_out(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {
        "sources": [{"source": f"text:{texts}", "weight": 0.5}],
        "vocab_size": 600,
        "out": str(tmp_path / "store"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run(capsys, "--recipe", tmp_path / "recipe.yaml", "--workers", "1")[0] == 0
    (source,) = Manifest.read(tmp_path / "store").sources
    assert source.num_documents + source.dropped["weight below 1"] == 30 and 8 <= source.num_documents <= 22


def test_shards(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several shards hold what one does, and load as one."""
    arguments = ["--source", f"text:{texts}", *ARGUMENTS]
    assert run(capsys, *arguments, "--out", tmp_path / "one")[0] == 0
    monkeypatch.setattr(assemble, "_MEGA", 5000)
    arguments += ["--shard-megatokens", "1", "--work", tmp_path / "one.work"]
    assert run(capsys, *arguments, "--out", tmp_path / "several")[0] == 0
    one, several = (Manifest.read(tmp_path / name) for name in ("one", "several"))
    assert len(several.shards["train"]) > 3 and one.shards["train"] == ["train-00000"]
    assert one.splits == several.splits and one.sources == several.sources
    for split in ("train", "heldout"):
        parts = [(tmp_path / "several" / f"{name}.bin").read_bytes() for name in several.shards[split]]
        assert b"".join(parts) == (tmp_path / "one" / f"{split}-00000.bin").read_bytes()
    batches = [PretrainingData(tmp_path / name, seq_length=32).batch(np.arange(40)) for name in ("one", "several")]
    assert all(np.array_equal(batches[0][name], batches[1][name]) for name in batches[0])


def test_stages_as_commands(made: tuple[Path, subprocess.CompletedProcess[str]], texts: Path, tmp_path: Path) -> None:
    """One by one they make the same store; one too early says which is missing."""
    arguments = ["--source", f"text:{texts}", "--out", str(tmp_path / "store"), *ARGUMENTS]

    def command(name: str) -> subprocess.CompletedProcess[str]:
        script = [sys.executable, str(ROOT / f"data_prep/{name}.py"), *arguments]
        return subprocess.run(script, capture_output=True, text=True, check=False, cwd=tmp_path)

    early = command("sentences")
    assert early.returncode == 2 and early.stderr.startswith("error: Expected the stage deduplicate to be done")
    for name in ("extract", "clean", "deduplicate", "sentences", "vocabulary", "encode", "assemble"):
        done = command(name)
        assert (done.returncode, done.stderr) == (0, ""), name
    for name in STORE_FILES:
        assert (tmp_path / "store" / name).read_bytes() == (made[0] / name).read_bytes(), name


def test_two_runs_do_not_meet(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--source", f"text:{texts}", "--out", str(tmp_path / "store"), *ARGUMENTS]
    (tmp_path / "store.work").mkdir()
    lock = os.open(tmp_path / "store.work", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "another run at work" in err
    os.close(lock)
    assert run(capsys, *arguments)[0] == 0


def test_max_documents(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--source", f"text:{texts}", "--out", tmp_path / "store", *ARGUMENTS, "--max-documents", "17"]
    assert run(capsys, *arguments)[0] == 0
    assert sum(counts.num_documents for counts in Manifest.read(tmp_path / "store").splits.values()) == 17


def test_nothing_is_lost_when_a_problem_is_gone(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What could not be read takes a place among the parts, which is another's when it can be."""
    folder = tmp_path / "in"
    folder.mkdir()
    for path in texts.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "gone.txt").symlink_to(tmp_path / "nowhere")
    arguments = ["--source", f"text:{folder}", "--out", tmp_path / "store", *ARGUMENTS]
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "gone.txt" in err
    (folder / "gone.txt").unlink()
    code, said, _ = run(capsys, *arguments, "--on-error", "skip")
    assert code == 0 and "unreadable" not in said
    assert sum(counts.num_documents for counts in Manifest.read(tmp_path / "store").splits.values()) == 30


def test_parts_after_a_problem_keep_to_their_sources(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the part of the problem, all that come after it are of other numbers."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, path in enumerate(sorted(texts.iterdir())):
        folders[number % 3 == 0].mkdir(exist_ok=True)
        (folders[number % 3 == 0] / path.name).write_bytes(path.read_bytes())
    (folders[0] / "gone.txt").symlink_to(tmp_path / "nowhere")
    sources = [word for folder in folders for word in ("--source", f"text:{folder}")]
    arguments = [*sources, "--out", tmp_path / "store", *ARGUMENTS, "--on-error", "skip", "--overwrite"]
    for _ in range(2):
        assert run(capsys, *arguments)[0] == 0
        assert [source.num_documents for source in Manifest.read(tmp_path / "store").sources] == [20, 10]
        (folders[0] / "gone.txt").unlink(missing_ok=True)


def test_what_was_skipped_is_told_with_its_place(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "One sentence of a document."}\nno JSON\n')
    sources = ["--source", f"text:{texts}", "--source", f"jsonl:{tmp_path / 'a.jsonl'}"]
    code, said, _ = run(capsys, *sources, "--out", tmp_path / "store", *ARGUMENTS, "--on-error", "skip")
    assert code == 0 and f"  left out, not JSON: {tmp_path / 'a.jsonl'}, line 2\n" in said


def test_a_source_of_nothing_is_told(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("")
    sources = ["--source", f"text:{texts}", "--source", f"text:{tmp_path / 'a.txt'}"]
    code, said, _ = run(capsys, *sources, "--out", tmp_path / "store", *ARGUMENTS)
    assert code == 0 and f"nothing in the store is from text:{tmp_path / 'a.txt'}: {{'empty': 1}}" in said


@pytest.mark.parametrize("flag", ["--out", "--work"])
def test_what_is_made_does_not_become_a_source(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_text("".join(json.dumps({"text": p.read_text()}) + "\n" for p in texts.iterdir()))
    places = {"--out": tmp_path / "store", "--work": tmp_path / "work"} | {flag: tmp_path / "in/made"}
    flags = [word for pair in places.items() for word in pair]
    code, _, err = run(capsys, "--source", f"jsonl:{tmp_path / 'in'}", *flags, *ARGUMENTS)
    assert (
        code == 2 and "outside of the source" in err and list((tmp_path / "in").iterdir()) == [tmp_path / "in/a.jsonl"]
    )


def test_a_flipped_bit_in_a_part_is_named(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever it is: the end of a file is under no checksum of its own."""
    arguments = ["--source", f"text:{texts}", "--out", tmp_path / "store", *ARGUMENTS]
    assert run(capsys, *arguments)[0] == 0
    part = tmp_path / "store.work/clean/000000.parquet"
    whole = part.read_bytes()
    for place in (5, len(whole) // 2, len(whole) - 300, len(whole) - 100, len(whole) - 20):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        part.write_bytes(damaged)
        code, _, err = run(capsys, *arguments, "--overwrite", "--near-duplicates", str(0.6 + place / len(whole) / 10))
        assert code == 2 and f"Expected {part} as an earlier stage wrote it" in err, place


def test_other_peoples_work_folders_are_safe(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is seen before anything is made."""
    thesis = tmp_path / "work/sentences/thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("dear")
    arguments = ["--source", f"text:{texts}", "--out", tmp_path / "store", "--work", tmp_path / "work", *ARGUMENTS]
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "'thesis.txt' in it" in err and thesis.read_text() == "dear"
    assert not (tmp_path / "work/extract").exists()
