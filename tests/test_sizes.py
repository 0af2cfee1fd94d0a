"""Files and functions stay readable: caps on lines and on positional arguments."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_FILE_LINES = 300
MAX_KERNEL_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_POSITIONAL = 6
# Signatures that are not ours to choose.
MIRRORS = {
    "dsparse/engine/initialize.py": {"initialize"},  # deepspeed.initialize
    "dsparse/engine/durable.py": {"load_checkpoint"},  # DeepSpeedEngine.load_checkpoint
}

FILES = sorted(path for room in ("dsparse", "data_prep", "launch") for path in (ROOT / room).rglob("*.py"))


def functions(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def num_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of what it does; signature and docstring are left out, for documentation is never what is too long."""
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None
    begin = (first.end_lineno or first.lineno) + 1 if has_docstring else first.lineno
    return (function.end_lineno or first.lineno) - begin + 1


def num_positional(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def is_triton(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether it is a Triton program: those cannot have keyword-only arguments, and are launched by keyword anyway."""
    decorators = (d.func if isinstance(d, ast.Call) else d for d in function.decorator_list)
    return any(ast.unparse(d) == "triton.jit" for d in decorators)


def too_large(source: str, mirrors: frozenset[str] | set[str] = frozenset()) -> list[str]:
    found = []
    for function in functions(source):
        if num_lines(function) > MAX_FUNCTION_LINES:
            found.append(f"{function.name}: {num_lines(function)} lines, expected at most {MAX_FUNCTION_LINES}")
        if num_positional(function) > MAX_POSITIONAL and function.name not in mirrors and not is_triton(function):
            found.append(f"{function.name}: {num_positional(function)} positional arguments, at most {MAX_POSITIONAL}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    limit = MAX_KERNEL_FILE_LINES if "kernels" in path.parts else MAX_FILE_LINES
    assert len(source.splitlines()) <= limit
    assert too_large(source, MIRRORS.get(str(path.relative_to(ROOT)), set())) == []


def test_what_is_too_large_is_caught() -> None:
    assert len(too_large("def f(a, b, c, d, e, g, h): pass\n")) == 1
    assert len(too_large("def f():\n" + "    x = 1\n" * (MAX_FUNCTION_LINES + 1))) == 1
    assert too_large("@triton.jit\ndef f(a, b, c, d, e, g, h): pass\n") == []
    assert len(too_large("@triton.jit(debug=True)\ndef f():\n" + "    x = 1\n" * (MAX_FUNCTION_LINES + 1))) == 1
    assert too_large("class C:\n    def f(self, a, b, c, d, e, g, *, h): pass\n") == []
    assert too_large('def f():\n    """' + "words\n" * 100 + '"""\n' + "    x = 1\n" * MAX_FUNCTION_LINES) == []
    assert too_large("def f(a, b, c, d, e, g, h): pass\n", {"f"}) == []
