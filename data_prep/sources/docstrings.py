"""The documentation installed on the machine: docstrings of every Python module, read as text and never imported.

One module is one document. Modules of tests are left out, and so is what other packages carry along as copies.
"""

from __future__ import annotations

import ast
import os
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

_LEFT_OUT = frozenset({"__pycache__", "_vendor", "idlelib", "node_modules", "test", "tests", "vendored"})
_BLOCKS = (ast.If, ast.Try, ast.With)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_MAX_FILE_BYTES = 4_000_000  # larger ones are tables in the form of code


def installed_modules() -> Iterator[Path]:
    """Python files of the standard library and of the installed packages of this interpreter, in a fixed order."""
    paths = sysconfig.get_paths()
    site_packages = sorted({Path(paths[name]).resolve() for name in ("purelib", "platlib")})
    # An interpreter without a virtual environment keeps its packages inside the standard library.
    yield from python_files(Path(paths["stdlib"]).resolve(), left_out=_LEFT_OUT | {"site-packages", "dist-packages"})
    for folder in site_packages:
        yield from python_files(folder, left_out=_LEFT_OUT)


def python_files(root: Path, *, left_out: frozenset[str] = _LEFT_OUT) -> Iterator[Path]:
    """Python files under a folder, sorted, but for folders of these names and tests."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in left_out)
        for name in sorted(files):
            if name.endswith(".py") and not name.startswith("test_"):
                yield Path(folder, name)


def docstrings_of(source: bytes) -> list[str]:
    """The docstrings of a module, its classes and functions, in the order of the file; none if it does not parse."""
    if len(source) > _MAX_FILE_BYTES or not (b'"""' in source or b"'''" in source):
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return list(_docstrings_below(tree))


def _docstrings_below(node: ast.AST) -> Iterator[str]:
    """Goes through definitions alone: expressions, most of the tree, hold no docstring."""
    if isinstance(node, _DOCUMENTED):
        text = ast.get_docstring(node, clean=False)
        if text:
            yield text
    for child in getattr(node, "body", ()):
        if isinstance(child, _DOCUMENTED + _BLOCKS):
            yield from _docstrings_below(child)
