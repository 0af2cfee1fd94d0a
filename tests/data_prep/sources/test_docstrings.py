"""Docstrings of modules, which are read and never imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.sources.docstrings import docstrings_of, installed_modules, python_files

MODULE = '''
"""The module speaks first."""
x = 1
class A:
    """A class speaks."""
    def f(self):
        """A method speaks."""
        """Not a docstring."""
        def inner():
            "A one-line docstring."
if True:
    async def g():
        """Within a condition."""
def h(text="""not this"""):
    return """nor this"""
'''


def test_docstrings() -> None:
    assert docstrings_of(MODULE.encode()) == [
        "The module speaks first.", "A class speaks.", "A method speaks.", "A one-line docstring.",
        "Within a condition.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "source", [b"", b'"""open', b'def f(:\n  """x"""', b'"""a"""\0', b'# coding: klingon\n"""a"""']
)
def test_what_does_not_parse_has_no_docstrings(source: bytes) -> None:
    assert docstrings_of(source) == []


def test_modules_are_found_in_order_without_tests(tmp_path: Path) -> None:
    for name in ("b/z.py", "a.py", "b/a.py", "b/tests/t.py", "b/test_c.py", "_vendor/v.py", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("")
    assert [str(path.relative_to(tmp_path)) for path in python_files(tmp_path)] == ["a.py", "b/a.py", "b/z.py"]


def test_installed_modules_are_those_of_this_interpreter() -> None:
    paths = list(installed_modules())
    assert any(path.match("python3*/argparse.py") for path in paths)
    assert any(path.match("site-packages/hypothesis/core.py") for path in paths)
    assert len(paths) == len(set(paths))
