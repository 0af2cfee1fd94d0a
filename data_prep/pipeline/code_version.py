"""The version of a stage's code: a hash of what its module and the modules it imports do.

Comments, docstrings and layout do not enter. So a change of a rule is noticed by itself, without a number that somebody
has to remember to raise, and a change of a comment makes nobody's corpus anew.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_ROOMS = ("data_prep", "dsparse")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_version(*modules: str, left_out: tuple[str, ...] = ()) -> str:
    """Hash of modules and everything of this project that they import, directly or not.

    Args:
        modules: dotted names.
        left_out: modules, or rooms, that decide nothing of the result: progress bars, error messages.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(closure(*modules, left_out=left_out)):
        digest.update(f"{name} {_hash_of(_path(name) or Path())}\n".encode())
    return digest.hexdigest()[:16]


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of installed packages; "none" where one is not installed."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def closure(*modules: str, left_out: tuple[str, ...] = ()) -> set[str]:
    """Dotted names of what `code_version` looks at."""
    found: set[str] = set()
    waiting = [*modules]
    while waiting:
        name = waiting.pop()
        if name in found or any(name == one or name.startswith(one + ".") for one in left_out):
            continue
        path = _path(name)
        if path is not None:
            found.add(name)
            waiting += _imports(path)
    return found


@cache
def _imports(path: Path) -> list[str]:
    """Modules of this project that a file imports; of `from a import b` both a and, if it is a module, a.b."""
    found = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in found if name.partition(".")[0] in _ROOMS]


def _path(module: str) -> Path | None:
    place = ROOT / module.replace(".", "/")
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _hash_of(path: Path) -> str:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
