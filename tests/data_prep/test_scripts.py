"""Every script of data_prep/ starts as a process of its own, from any folder.

Python puts a script's folder on its path, and data_prep/ holds a module named as one of Python's own; a script that
leaves the folder there cannot import half of the libraries.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "data_prep"
_IS_MAIN = "__name__ == '__main__'"


def blocks(path: Path) -> list[ast.If]:
    """What a file does at its top level if it is the script."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return [node for node in body if isinstance(node, ast.If) and ast.unparse(node.test) == _IS_MAIN]


SCRIPTS = sorted(path for path in FOLDER.rglob("*.py") if blocks(path))


def missing_modules(path: Path) -> set[str]:
    """Modules of data_prep that a file imports, by itself or through others, and that are not in this checkout."""
    missing: set[str] = set()
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            for name in imported(file):
                place = ROOT / name.replace(".", "/")
                found = [one for one in (place.with_suffix(".py"), place / "__init__.py") if one.is_file()]
                waiting += found
                missing |= set() if found or place.is_dir() else {name}
    return missing


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from (name for name in names if name.partition(".")[0] == "data_prep")


def test_the_commands_are_scripts() -> None:
    names = {path.name for path in SCRIPTS}
    assert {"inspect.py", "prepare.py", "verify.py", "assemble.py"} <= names


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_takes_its_folder_off_the_path_first(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    first = tree.body.index(next(node for node in tree.body if isinstance(node, ast.If)))
    before = {ast.unparse(node) for node in tree.body[1:first]}
    assert before <= {"from __future__ import annotations", "import os", "import sys"}
    header = blocks(path)[0]
    assert ast.unparse(header.test) == _IS_MAIN == ast.unparse(tree.body[first].test)  # type: ignore[attr-defined]
    assert ast.unparse(header.body[0]).startswith("sys.path[0] = ")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_starts_from_elsewhere(path: Path, tmp_path: Path) -> None:
    missing = missing_modules(path)
    if missing:
        pytest.skip(f"not in this checkout: {', '.join(sorted(missing))}")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(path), "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {path.name} ") and done.stderr == ""
