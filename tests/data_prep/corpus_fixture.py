"""A small corpus of many parts, and the preparation of it in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.data.store_fixture import stdlib_documents

ROOT = Path(__file__).resolve().parents[2]
NUM_SOURCES = 6
"""A source has a part at least."""
OPTIONS = ["--vocab-size", "500", "--heldout-fraction", "0.2"]


def write_sources(folder: Path) -> list[str]:
    """Files of JSON lines with real English and some duplicates; returns the --source arguments."""
    folder.mkdir(parents=True)
    documents = [text[:3000] for text in stdlib_documents()[:60]]
    documents += documents[:5] + [text.replace(" the ", " that ", 1) for text in documents[5:10]]
    arguments = []
    for number in range(NUM_SOURCES):
        path = folder / f"{number}.jsonl"
        lines = (json.dumps({"text": text}) + "\n" for text in documents[number::NUM_SOURCES])
        path.write_text("".join(lines), encoding="utf-8")
        arguments += ["--source", f"jsonl:{path}"]
    return arguments


def command(sources: list[str], out: Path, *more: str) -> list[str]:
    """The command that makes a store of them."""
    return [sys.executable, str(ROOT / "data_prep/prepare.py"), *sources, "--out", str(out), *OPTIONS, *more]


def prepared(sources: list[str], out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    return subprocess.run(
        command(sources, out, *more), capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": ""}
    )


def content(store: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {path.name: path.read_bytes() for path in sorted(store.iterdir())}
