"""A small real store for tests: English from the standard library's docstrings, made by the real data_prep.

It is made once per process, in about two seconds, and copied from there.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import json
import shutil
import sysconfig
import tempfile
from pathlib import Path

from data_prep.pipeline.command import opened
from data_prep.prepare import prepare
from data_prep.recipe import Recipe, SourceSpec
from data_prep.sources.docstrings import docstrings_of, python_files
from data_prep.text.prose import prose_of_markup

# Enough for a few hundred sequences of 128 tokens in training and a few dozen held out.
NUM_DOCUMENTS = 120
HELDOUT_FRACTION = 0.15
_MIN_PARAGRAPHS = 12


def make_small_store(path: Path | str, *, vocab_size: int = 1024) -> Path:
    """Makes a token store at `path` and returns it.

    Args:
        path: a folder that does not exist.
        vocab_size: word pieces.
    """
    return Path(shutil.copytree(_made_once(vocab_size), path))


def stdlib_documents() -> list[str]:
    """Prose of modules of the standard library, paragraphs apart by blank lines."""
    documents = []
    for module in python_files(Path(sysconfig.get_paths()["stdlib"]).resolve(), left_out=_LEFT_OUT):
        paragraphs = [p for text in docstrings_of(module.read_bytes()) for p in prose_of_markup(text)]
        if len(paragraphs) >= _MIN_PARAGRAPHS:
            documents.append("\n\n".join(paragraphs))
        if len(documents) == NUM_DOCUMENTS:
            break
    return documents


_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"})


@functools.lru_cache
def _made_once(vocab_size: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="dsparse_store_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in stdlib_documents())
    (folder / "documents.jsonl").write_text(lines, encoding="utf-8")
    recipe = Recipe(
        sources=(SourceSpec(source=f"jsonl:{folder / 'documents.jsonl'}"),),
        out=folder / "store",
        work=folder / "work",
        vocab_size=vocab_size,
        heldout_fraction=HELDOUT_FRACTION,
        workers=1,
    )
    with contextlib.redirect_stdout(io.StringIO()), opened(recipe) as context:
        prepare(context)
    return folder / "store"
