"""A stage's code version follows what the code does, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.pipeline import code_version as module
from data_prep.pipeline.code_version import closure, code_version, library_versions
from data_prep.pipeline.stage import LEFT_OUT, modules_of
from data_prep.prepare import STAGES

MAIN = '''"""Docs."""
from data_prep.helper import one

def f():
    """Docs."""
    return one()  # comment
'''
HELPER = "def one():\n    return 1\n"


@pytest.fixture
def version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """The version of data_prep.main in a tree where these are its files."""

    def of(**files: str) -> str:
        room = tmp_path / "data_prep"
        room.mkdir(exist_ok=True)
        for name, text in ({"main": MAIN, "helper": HELPER} | files).items():
            (room / f"{name}.py").write_text(text)
        monkeypatch.setattr(module, "ROOT", tmp_path)
        module._imports.cache_clear()
        module._hash_of.cache_clear()
        return code_version("data_prep.main", left_out=("data_prep.looks",))

    yield of
    module._imports.cache_clear()
    module._hash_of.cache_clear()


def test_comments_and_docstrings_do_not_enter(version) -> None:  # type: ignore[no-untyped-def]
    assert version() == version(
        main=MAIN.replace("Docs", "Other").replace("  # comment", "").replace("return", "return ")
    )


@pytest.mark.parametrize(
    "files",
    [
        {"main": MAIN.replace("one()", "one() + 1")},
        {"helper": HELPER.replace("1", "2")},
        {"helper": "from data_prep import third\n" + HELPER, "third": "x = 1\n"},
    ],
    ids=["the module", "what it imports", "another import"],
)
def test_what_the_code_does_enters(version, files: dict[str, str]) -> None:  # type: ignore[no-untyped-def]
    assert version() != version(**files)


def test_a_module_far_down_enters(version) -> None:  # type: ignore[no-untyped-def]
    far = {"helper": "from data_prep import third\n" + HELPER}
    assert version(**far, third="x = 1\n") != version(**far, third="x = 2\n")


def test_what_is_left_out_does_not(version) -> None:  # type: ignore[no-untyped-def]
    main = "import data_prep.looks\n" + MAIN
    assert version(main=main, looks="x = 1\n") == version(main=main, looks="x = 2\n")


def test_a_stage_depends_on_its_own_code_and_no_other() -> None:
    """A change of how wikitext is read makes no vocabulary anew."""
    found = {stage.name: closure(*modules_of(stage), left_out=LEFT_OUT) for stage in STAGES}
    expected = {
        "data_prep.sources.wikitext": {"extract"},
        "data_prep.text.filters": {"clean"},
        "data_prep.duplicates.find": {"deduplicate"},
        "data_prep.text.sentences": {"sentences", "extract"},  # docstrings are judged sentence by sentence
        "data_prep.text.tokenizer": {"vocabulary", "encode"},  # which trains one, and reads one
        "data_prep.text.encoder": {"encode"},
    }
    for rule, stages in expected.items():
        assert {stage for stage, modules in found.items() if rule in modules} == stages, rule


def test_libraries() -> None:
    versions = library_versions(("numpy", "no-such-package"))
    assert versions["numpy"][0].isdigit() and versions["no-such-package"] == "none"
