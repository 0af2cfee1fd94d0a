"""Every public name of the package is documented and fully annotated, as its type checkers and readers expect.

A name is public when neither it nor anything it lies in begins with an underscore.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "dsparse").rglob("*.py"))

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public_definitions(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Public functions, classes and methods, with their dotted names; not what is local to a function."""
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public_definitions(child, f"{prefix}{child.name}.")


def missing_annotations(function: ast.FunctionDef | ast.AsyncFunctionDef, *, is_method: bool) -> list[str]:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args]
    if is_method and named and named[0].arg in ("self", "cls"):
        named = named[1:]
    every = [*named, *arguments.kwonlyargs, *(a for a in (arguments.vararg, arguments.kwarg) if a)]
    return [a.arg for a in every if a.annotation is None] + (["return"] if function.returns is None else [])


def is_overload_or_setter(node: Definition) -> bool:
    return any(
        (isinstance(d, ast.Name) and d.id == "overload") or (isinstance(d, ast.Attribute) and d.attr == "setter")
        for d in node.decorator_list
    )


def lacking(source: str) -> list[str]:
    """What the public names of a file lack, one line each."""
    tree = ast.parse(source)
    found = [] if ast.get_docstring(tree) or not tree.body else ["the module has no docstring"]
    for name, node in public_definitions(tree):
        if not ast.get_docstring(node) and not is_overload_or_setter(node):
            found.append(f"{name} has no docstring")
        if not isinstance(node, ast.ClassDef):
            missing = missing_annotations(node, is_method="." in name)
            if missing:
                found.append(f"{name} is not annotated: {', '.join(missing)}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_names(path: Path) -> None:
    assert lacking(path.read_text(encoding="utf-8")) == []


def test_what_is_lacking_is_caught() -> None:
    bare = "def f(a, *, b: int):\n    return a\nclass C:\n    def m(self): pass\n"
    assert lacking(bare) == [
        "the module has no docstring",
        "f has no docstring",
        "f is not annotated: a, return",
        "C has no docstring",
        "C.m has no docstring",
        "C.m is not annotated: return",
    ]
    assert lacking('"""Doc."""\ndef _f(a): pass\nclass _C:\n    def m(self): pass\n') == []
