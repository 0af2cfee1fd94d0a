"""Documents from files: what is read, in which order, and what is said of files that are malformed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep import sources as sources_module
from data_prep.corpus import read_corpus, write_corpus
from data_prep.docstrings import docstrings_of, installed_modules, python_files
from data_prep.sources import InstalledDocs, parse_source
from dsparse.errors import UserError


def corpus_of(tmp_path: Path, *specs: str, workers: int = 1, jsonl_field: str = "text") -> list[list[str]]:
    sources = [parse_source(spec, jsonl_field=jsonl_field) for spec in specs]
    write_corpus(sources, tmp_path / "corpus.txt", num_workers=workers)
    return list(read_corpus(tmp_path / "corpus.txt"))


def test_text_files_in_a_fixed_order(tmp_path: Path) -> None:
    folder = tmp_path / "books"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "z.txt").write_text("Third file.")
    (folder / "a.TXT").write_text("First file. It goes\non.\n\nNew paragraph", encoding="utf-8-sig")
    (folder / "b.md").write_text("# Title\n\nThis is a file of markdown.\n\n```\ncode = 1\n```\n")
    (folder / "skip.py").write_text("x = 1")
    assert corpus_of(tmp_path, f"text:{folder}") == [
        ["First file.", "It goes on.", "New paragraph"],
        ["Third file."],
        ["This is a file of markdown."],
    ]


def test_a_single_text_file(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("Just this.")
    assert corpus_of(tmp_path, f"text:{tmp_path / 'one.txt'}") == [["Just this."]]


def test_a_long_text_file_is_one_document_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one book could be in both splits, and be its own "other document" in a pair."""
    monkeypatch.setattr(sources_module, "PART_BYTES", 20)
    long = "A first line that is long,\nand goes on.\n\nA second one.\n\nA third that ends.\n"
    (tmp_path / "text").mkdir()
    (tmp_path / "text/1.txt").write_text("Before it.\n")
    (tmp_path / "text/2.txt").write_text(long)
    # What the second stretch of it repeats is left out, and what follows is still the same document.
    (tmp_path / "text/3.txt").write_text(f"Another beginning of it.\n\n{long.partition('.')[2]}\n\nAnd it ends.\n")
    (tmp_path / "text/4.txt").write_text("After it.\n")
    assert len(list(parse_source(f"text:{tmp_path / 'text'}").parts())) > 5
    assert corpus_of(tmp_path, f"text:{tmp_path / 'text'}") == [
        ["Before it."],
        ["A first line that is long, and goes on.", "A second one.", "A third that ends."],
        ["Another beginning of it.", "And it ends."],
        ["After it."],
    ]


def test_hidden_folders_are_no_text(tmp_path: Path) -> None:
    """A store is made in one, beside its place, which may be among the text."""
    for name in ("a.txt", ".store.partial/corpus.txt", "b/.git/c.txt", ".d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("A line.\n")
    assert parse_source(f"text:{tmp_path}").paths == (tmp_path / "a.txt",)  # type: ignore[attr-defined]


def test_json_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "PART_BYTES", 40)
    texts = [f"Document {i} is here. It has ä." for i in range(20)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": t, "n": 1}) + "\n\n" for t in texts))
    assert corpus_of(tmp_path, f"jsonl:{tmp_path / 'a.jsonl'}", jsonl_field="body") == [
        [f"Document {i} is here.", "It has ä."] for i in range(20)
    ]


def test_duplicates_and_empty_documents_are_left_out(tmp_path: Path) -> None:
    texts = ["Once.", " \n", "Twice.", "Once.", "", "!!!", "Thrice."]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    spec = f"jsonl:{tmp_path / 'a.jsonl'}"
    counts = write_corpus([parse_source(spec), parse_source(spec)], tmp_path / "c", num_workers=1)
    assert list(read_corpus(tmp_path / "c")) == [["Once."], ["Twice."], ["Thrice."]]
    assert (counts.num_documents, counts.num_duplicates, counts.num_words) == (3, 5, 3)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"text": "a"', "Expected JSON"),
        ('["text"]', "an object with a text 'text'"),
        ('{"title": "a"}', "--jsonl-field"),
        ('{"text": 5}', "an object with a text 'text'"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_malformed_line_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, words: str, workers: int
) -> None:
    monkeypatch.setattr(sources_module, "PART_BYTES", 60)
    good = '{"text": "A good line of text."}\n'
    (tmp_path / "a.jsonl").write_text(good * 6 + "\n" + line + "\n" + good)
    with pytest.raises(UserError, match=r"a\.jsonl, line 8") as error:
        corpus_of(tmp_path, f"jsonl:{tmp_path / 'a.jsonl'}", workers=workers)
    assert words in str(error.value)


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"Good line.\nBad \xff line.\n")
    with pytest.raises(UserError, match=r"Expected UTF-8 in .*a\.txt, line 2. Got byte 0xff"):
        corpus_of(tmp_path, f"text:{tmp_path / 'a.txt'}")


@pytest.mark.parametrize("spec", ["wikipedia", "text:", "jsonl:", "text", "installed-docs:x", ""])
def test_unknown_sources_are_refused(spec: str) -> None:
    with pytest.raises(UserError, match="Expected --source installed-docs, text:DIR or jsonl:FILE"):
        parse_source(spec)


def test_sources_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        parse_source(f"text:{tmp_path / 'nowhere'}")
    with pytest.raises(UserError, match=r"\*\.txt"):
        parse_source(f"text:{tmp_path}")
    with pytest.raises(UserError, match="no file at"):
        parse_source(f"jsonl:{tmp_path / 'nowhere'}")


MODULE = '''
"""The module speaks first."""
x = 1
class A:
    """A class speaks."""
    def f(self):
        """A method speaks."""
        """Not a docstring."""
        def inner():
            "A one-line docstring."
if True:
    async def g():
        """Within a condition."""
def h(text="""not this"""):
    return """nor this"""
'''


def test_docstrings() -> None:
    assert docstrings_of(MODULE.encode()) == [
        "The module speaks first.", "A class speaks.", "A method speaks.", "A one-line docstring.",
        "Within a condition.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "source", [b"", b'"""open', b'def f(:\n  """x"""', b'"""a"""\0', b'# coding: klingon\n"""a"""']
)
def test_what_does_not_parse_has_no_docstrings(source: bytes) -> None:
    assert docstrings_of(source) == []


def test_modules_are_found_in_order_without_tests(tmp_path: Path) -> None:
    for name in ("b/z.py", "a.py", "b/a.py", "b/tests/t.py", "b/test_c.py", "_vendor/v.py", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("")
    assert [str(path.relative_to(tmp_path)) for path in python_files(tmp_path)] == ["a.py", "b/a.py", "b/z.py"]


def test_installed_modules_are_those_of_this_interpreter() -> None:
    paths = list(installed_modules())
    assert any(path.match("python3*/argparse.py") for path in paths)
    assert any(path.match("site-packages/hypothesis/core.py") for path in paths)
    assert len(paths) == len(set(paths))


def test_repeated_paragraphs_of_documentation_are_left_out(tmp_path: Path) -> None:
    shared = "This paragraph is in both of the modules."
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text(f'"""{shared}\n\nThis is only in module {name} here."""')
    source = InstalledDocs(tuple(python_files(tmp_path)))
    write_corpus([source], tmp_path / "c", num_workers=1)
    assert list(read_corpus(tmp_path / "c")) == [
        [shared, "This is only in module a here."],
        ["This is only in module b here."],
    ]


def test_documentation_is_read_without_importing_it(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text('"""This module must not be run at all."""\nraise SystemExit("imported")\n')
    source = InstalledDocs((tmp_path / "loud.py",))
    write_corpus([source], tmp_path / "c", num_workers=1)
    assert list(read_corpus(tmp_path / "c")) == [["This module must not be run at all."]]


def test_the_corpus_does_not_depend_on_the_workers(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"Text {i % 90}. More."}) + "\n" for i in range(300)))
    modules = InstalledDocs(tuple(installed_modules())[:80])
    files = []
    for workers in (1, 3):
        files.append(tmp_path / f"corpus{workers}")
        write_corpus([modules, parse_source(f"jsonl:{tmp_path / 'a.jsonl'}")], files[-1], num_workers=workers)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].stat().st_size > 20_000


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_documents_than_wanted(tmp_path: Path, workers: int) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"Text {i}."}) + "\n" for i in range(9)))
    source = parse_source(f"jsonl:{tmp_path / 'a.jsonl'}")
    counts = write_corpus([source, source], tmp_path / "c", num_workers=workers, max_documents=3)
    assert list(read_corpus(tmp_path / "c")) == [["Text 0."], ["Text 1."], ["Text 2."]]
    assert counts.num_documents == 3
