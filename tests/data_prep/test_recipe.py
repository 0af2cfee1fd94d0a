"""A recipe from a file, from flags and from both; what is wrong with it is said in one line."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import yaml

from data_prep.recipe import Recipe, SourceSpec, add_arguments, recipe_of
from dsparse.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def recipe(*flags: object) -> Recipe:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return recipe_of(parser.parse_args([str(flag) for flag in flags]))


def from_file(tmp_path: Path, *flags: object, **content: object) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"sources": ["text:a"], "out": "store", **content}))
    return recipe("--recipe", path, *flags)


def test_the_shipped_recipe() -> None:
    made = recipe("--recipe", ROOT / "recipes/wiki-books.yaml")
    assert [spec.source.partition(":")[0] for spec in made.sources] == ["wikipedia-xml", "gutenberg"]
    assert made.out == Path("build/wiki-books") and made.work == Path("build/wiki-books.work")
    assert made.on_error == "skip" and made.vocab_size == 30522


def test_flags_alone() -> None:
    made = recipe(
        "--source", "text:a", "--source", "jsonl:b", "--out", "x/store", "--vocab-size", 700, "--filter", "min_words=9"
    )
    assert made.sources == (SourceSpec(source="text:a"), SourceSpec(source="jsonl:b"))
    assert (made.vocab_size, made.work, made.filters) == (700, Path("x/store.work"), {"min_words": 9})


def test_flags_go_before_the_file(tmp_path: Path) -> None:
    content = {"vocab_size": 900, "seed": 5, "filters": {"min_words": 3, "max_words": 100}}
    made = from_file(tmp_path, "--vocab-size", 700, "--filter", "min_words=9", **content)
    assert (made.vocab_size, made.seed, made.filters) == (700, 5, {"min_words": 9, "max_words": 100})
    assert from_file(tmp_path, "--source", "text:b").sources == (SourceSpec(source="text:b"),)


def test_home_is_home_in_sources_too(tmp_path: Path) -> None:
    made = from_file(tmp_path, sources=["text:~/books", {"source": "jsonl:~/a.jsonl"}], out="~/store")
    assert [spec.source for spec in made.sources] == [f"text:{Path.home()}/books", f"jsonl:{Path.home()}/a.jsonl"]
    assert made.out == Path.home() / "store"


def test_a_filter_that_is_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--filter min_words"):
        from_file(tmp_path, "--filter", "min_words=[")
    with pytest.raises(UserError, match="--filters to be dict"):
        from_file(tmp_path, "--filter", "min_words=3", filters=[])


@pytest.mark.parametrize("off", ["off", False, None])
def test_near_duplicates_off(tmp_path: Path, off: object) -> None:
    assert from_file(tmp_path, near_duplicates=off).near_duplicates is None
    assert from_file(tmp_path, "--near-duplicates", "off").near_duplicates is None
    assert from_file(tmp_path, "--near-duplicates", "0.9", near_duplicates=off).near_duplicates == 0.9
    assert from_file(tmp_path).near_duplicates == 0.8


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"vocabsize": 9}, "vocabsize"),
        ({"overwrite": True}, "overwrite"),
        ({"near_duplicates": 0}, "--near-duplicates in [0.5, 1)"),
        ({"out": "."}, "--out to name a folder"),
        ({"out": ".."}, "--out to name a folder"),
        ({"out": ""}, "--out to be a path"),
        ({"out": "a\0b"}, "--out to be a path"),
        ({"out": "w/clean", "work": "w"}, "neither in the other"),
        ({"out": "store", "work": "store/work"}, "neither in the other"),
        ({"filters": None}, "--filters to be dict"),
        ({"sources": ["text:\udcff"]}, "UTF-8"),
        ({"vocab_size": "many"}, "--vocab-size to be int"),
        ({"vocab_size": True}, "--vocab-size to be int"),
        ({"vocab_size": 10}, "--vocab-size from 256"),
        ({"heldout_fraction": 0}, "--heldout-fraction in (0, 1)"),
        ({"near_duplicates": 0.2}, "--near-duplicates in [0.5, 1)"),
        ({"on_error": "maybe"}, "--on-error"),
        ({"out": 3}, "--out to be a path"),
        ({"out": None}, "--out"),
        ({"work": "store"}, "neither in the other"),
        ({"sources": []}, "at least one --source"),
        ({"sources": "text:a"}, "list of sources"),
        ({"sources": ["text:a", "text:a"]}, "'text:a' twice"),
        ({"sources": [{"source": "text:a", "wieght": 2}]}, "wieght"),
        ({"sources": [{"source": "text:a", "weight": 0}]}, "weight in (0, 100]"),
        ({"sources": [{"source": "text:a", "weight": "2"}]}, "weight in (0, 100]"),
        ({"sources": [{"source": "text:a", "field": 2}]}, "field"),
        ({"sources": [{"weight": 2}]}, "kind:place"),
        ({"filters": {"no_such": 1}}, "no_such"),
        ({"filters": {"min_words": "x"}}, "min_words"),
        ({"filters": [1]}, "--filters to be dict"),
        ({"tokenizer": "nowhere.json"}, "nowhere.json"),
    ],
)
def test_what_is_wrong(tmp_path: Path, content: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        from_file(tmp_path, **content)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "sources: [", "\x00", "a: b: c"])
def test_no_yaml_of_keys(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        recipe("--recipe", tmp_path / "recipe.yaml")
