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

from data_prep.clean import prose_of_markup
from data_prep.docstrings import docstrings_of, python_files
from data_prep.prepare import Request, prepare

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
    request = Request(
        sources=[f"jsonl:{folder / 'documents.jsonl'}"],
        out=folder / "store",
        vocab_size=vocab_size,
        heldout_fraction=HELDOUT_FRACTION,
        tokenizer=None,
        seed=42,
        num_workers=1,
        overwrite=False,
        max_documents=None,
        jsonl_field="text",
    )
    with contextlib.redirect_stdout(io.StringIO()):
        prepare(request)
    return folder / "store"
