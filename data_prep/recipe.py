"""What a corpus is made of and how: a YAML file, flags, or both, every key of the one being a flag of the other."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from data_prep.text.filters import Filters
from data_prep.text.tokenizer import MIN_VOCAB_SIZE
from dsparse.data.vocabulary import Vocabulary
from dsparse.errors import UserError

OnError = Literal["refuse", "skip"]
_LARGEST = 2**63 - 1
_OFF = "off"


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """One source of documents."""

    source: str
    """`kind:place`, as for --source."""
    weight: float = 1.0
    """How often each training document comes in an epoch: 2 stores it twice, 0.5 keeps half of them."""
    field: str | None = None
    """Name of the text in JSON lines and Parquet; null takes the recipe's."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that is asked for. All but `work`, `workers`, `on_error` and `overwrite` decides the store's bytes."""

    sources: tuple[SourceSpec, ...]
    out: Path
    """Folder of the store."""
    work: Path
    """Folder of what the stages make on the way."""
    field: str = "text"
    max_documents: int | None = None
    language: str | None = None
    filters: dict[str, Any] = dataclasses.field(default_factory=dict)
    near_duplicates: float | None = 0.8
    """Jaccard similarity from which a document is a copy of an earlier one; null removes exact copies alone."""
    vocab_size: int = 8192
    tokenizer: Path | None = None
    tokenizer_megabytes: int = 200
    """Text that the vocabulary is trained on, a fair draw of the training documents."""
    heldout_fraction: float = 0.03
    seed: int = 42
    shard_megatokens: int = 500
    """A shard is closed when it holds so many million tokens."""
    workers: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)
    on_error: OnError = "refuse"
    overwrite: bool = False


_NOT_IN_FILE = {"overwrite"}
_PATHS = {"out", "work", "tokenizer"}
_RANGES: dict[str, tuple[float, float]] = {
    "vocab_size": (MIN_VOCAB_SIZE, 2**31 - 1),
    "seed": (0, _LARGEST),
    "workers": (1, 1024),
    "max_documents": (1, _LARGEST),
    "tokenizer_megabytes": (1, 2**20),
    "shard_megatokens": (1, 2**20),
}
_TYPES: dict[str, tuple[type, ...]] = {
    "field": (str,),
    "language": (str,),
    "on_error": (str,),
    "filters": (dict,),
    "near_duplicates": (int, float),
    "heldout_fraction": (int, float),
    "overwrite": (bool,),
    **{name: (int,) for name in _RANGES},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for each key of a recipe, and --recipe."""
    add = parser.add_argument
    add("--recipe", type=Path, metavar="YAML", help="a file with any of these as keys; flags go before the file")
    add(
        "--source", action="append", metavar="KIND:PLACE",
        help="where text comes from; give it several times for several. text:DIR, gutenberg:DIR, jsonl:FILE, "
        "parquet:PATH, wikipedia-xml:FILE, datasets:NAME, installed-docs; see docs/data.md",
    )  # fmt: skip
    add("--out", metavar="STORE", help="folder of the store to make")
    add("--work", metavar="DIR", help="folder for what the stages make on the way (default: STORE.work)")
    add("--field", help="name of the text in JSON lines and Parquet (default: text)")
    add("--max-documents", type=_number, help="read so many documents (default: all)")
    add("--on-error", help="bad input: 'refuse' stops with its place, 'skip' counts it (default: refuse)")
    add("--language", help="keep documents of this language, such as en (default: all)")
    add("--filter", action="append", metavar="NAME=VALUE", help="a key of the recipe's filters; see docs/data.md")
    add("--near-duplicates", type=_number_or_off, metavar="J", help="similarity of copies, or off (default: 0.8)")
    add("--vocab-size", type=_number, help="word pieces to train (default: 8192)")
    add(
        "--tokenizer",
        metavar="FILE",
        help="a tokenizer.json to use instead of training one: WordPiece or byte-level BPE",
    )
    add("--tokenizer-megabytes", type=_number, help="text to train the vocabulary on (default: 200)")
    add("--heldout-fraction", type=_number, help="share of documents held out (default: 0.03)")
    add("--seed", type=_number, help="of which documents are held out (default: 42)")
    add("--shard-megatokens", type=_number, help="million tokens in a shard of the store (default: 500)")
    add("--workers", type=_number, help=f"processes (default: all cores, here {os.cpu_count()})")
    add("--overwrite", action="store_true", default=None, help="replace another store at --out")
    add("--debug", action="store_true", help="show the traceback of an error")


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe that a file and flags make together; flags go before the file.

    Raises:
        UserError: a key is unknown or a value is not what it must be; names it and the file.
    """
    flags = {name: value for name, value in vars(arguments).items() if value is not None}
    values = _read(flags["recipe"]) if "recipe" in flags else {}
    if "source" in flags:
        values["sources"] = flags["source"]
    if "filter" in flags:
        _check("filters", values.get("filters", {}))
        values["filters"] = {**values.get("filters", {}), **dict(map(_filter, flags["filter"]))}
    names = {one.name for one in dataclasses.fields(Recipe)}
    values |= {name: value for name, value in flags.items() if name in names and name not in ("sources", "filters")}
    return _checked(values)


def filters_of(recipe: Recipe) -> Filters:
    """The filters with the bounds that the recipe gives.

    Raises:
        UserError: a name or a value is wrong.
    """
    known = {one.name for one in dataclasses.fields(Filters)} - {"language"}
    for name, value in recipe.filters.items():
        if name not in known:
            raise UserError(f"Expected filters named {', '.join(sorted(known))}. Got {name!r}.")
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise UserError(f"Expected a number, or null, for the filter {name}. Got {value!r}.")
    return Filters(**recipe.filters, language=recipe.language)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Expected a recipe in {path}. Got: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"Expected YAML in {path}. Got: {error}.") from None
    if not isinstance(content, dict):
        raise UserError(f"Expected keys and values in {path}. Got {content!r}.")
    known = {one.name for one in dataclasses.fields(Recipe)} - _NOT_IN_FILE
    unknown = [key for key in content if key not in known]
    if unknown:
        raise UserError(f"Expected keys of a recipe in {path}: {', '.join(sorted(known))}. Got {unknown[0]!r}.")
    return content


def _checked(values: dict[str, Any]) -> Recipe:
    near = values.get("near_duplicates")
    if near is False or near == _OFF:  # YAML reads off as false
        values["near_duplicates"] = None
    for name, value in values.items():
        _check(name, value)
    sources = _sources_of(values.get("sources"))
    if values.get("out") is None:
        raise UserError("Expected --out, the folder of the store to make. Got none.")
    paths = {name: Path(values[name]).expanduser() for name in _PATHS if values.get(name) is not None}
    if paths["out"].name in ("", ".."):
        raise UserError(f"Expected --out to name a folder to make. Got {str(values['out'])!r}.")
    paths.setdefault("work", paths["out"].with_name(paths["out"].name + ".work"))
    out, work = paths["out"].resolve(), paths["work"].resolve()
    if out.is_relative_to(work) or work.is_relative_to(out):
        raise UserError(f"Expected --work and --out to be two folders, neither in the other. Got {work} and {out}.")
    recipe = Recipe(**{**values, **paths, "sources": sources})
    filters_of(recipe)
    if recipe.tokenizer is not None:
        Vocabulary.read(recipe.tokenizer)
    return recipe


def _check(name: str, value: Any) -> None:
    """Raises UserError unless a value is of its key's type and within its range."""
    flag = "--" + name.replace("_", "-")
    if name in _PATHS and not (value is None or (isinstance(value, str | Path) and _is_printable(str(value)))):
        raise UserError(f"Expected {flag} to be a path, in UTF-8. Got {value!r}.")
    may_be_none = name in ("max_documents", "language", "near_duplicates", "tokenizer", "work")
    if name not in _TYPES or (value is None and may_be_none):
        return
    wanted: tuple[Any, ...] = _TYPES[name]
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise UserError(f"Expected {flag} to be {' or '.join(one.__name__ for one in wanted)}. Got {value!r}.")
    if name in _RANGES and not _RANGES[name][0] <= value <= _RANGES[name][1]:
        raise UserError(f"Expected {flag} from {_RANGES[name][0]} to {_RANGES[name][1]}. Got {value}.")
    if name == "heldout_fraction" and not 0 < value < 1:
        raise UserError(f"Expected {flag} in (0, 1). Got {value}.")
    if name == "near_duplicates" and not 0.5 <= value < 1:
        raise UserError(f"Expected {flag} in [0.5, 1), or off. Got {value}.")
    if name == "on_error" and value not in get_args(OnError):
        raise UserError(f"Expected {flag} to be one of {', '.join(get_args(OnError))}. Got {value!r}.")


def _sources_of(values: Any) -> tuple[SourceSpec, ...]:
    if not isinstance(values, list) or not values:
        raise UserError(f"Expected at least one --source, or a list of sources in the recipe. Got {values!r}.")
    specs = tuple(_source_of(value) for value in values)
    for spec in specs:
        if not _is_printable(spec.source):
            raise UserError(f"Expected sources whose paths are UTF-8. Got {spec.source!r}; rename it or link to it.")
    labels = [spec.source for spec in specs]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise UserError(f"Expected each source once. Got {twice[0]!r} twice; give it a weight of 2 instead.")
    return specs


def _source_of(value: Any) -> SourceSpec:
    if isinstance(value, str):
        return SourceSpec(source=_at_home(value))
    known = {one.name for one in dataclasses.fields(SourceSpec)}
    if not isinstance(value, Mapping) or not isinstance(value.get("source"), str) or not set(value) <= known:
        raise UserError(
            f"Expected a source as 'kind:place' or with the keys {', '.join(sorted(known))}. Got {value!r}."
        )
    weight = value.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= 100:
        raise UserError(f"Expected a weight in (0, 100] for the source {value['source']}. Got {weight!r}.")
    if not isinstance(value.get("field"), str | None):
        raise UserError(f"Expected the name of a field for the source {value['source']}. Got {value['field']!r}.")
    return SourceSpec(**{**value, "source": _at_home(value["source"]), "weight": float(weight)})


def _at_home(source: str) -> str:
    """A source with the ~ of its path expanded, as a shell does where it stands at the front."""
    kind, colon, place = source.partition(":")
    return f"{kind}:{Path(place).expanduser()}" if colon and place.startswith("~") else source


def _is_printable(path: str) -> bool:
    """Whether a path can stand in a manifest."""
    try:
        return "\0" not in path and bool(path.encode())
    except UnicodeEncodeError:
        return False


def _filter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"Expected --filter NAME=VALUE. Got {text!r}.")
    try:
        return name.replace("-", "_"), yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"Expected a number, or null, for --filter {name}. Got {value!r}.") from None


def _number(text: str) -> Any:
    """A number where it is one; what is not is told by `_check`, with the flag's name and range."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _number_or_off(text: str) -> Any:
    return _OFF if text == _OFF else _number(text)
