"""What is kept of documentation, by example: prose stays, code, sessions, tables and headings go."""

from __future__ import annotations

import pytest

from data_prep.text.prose import is_prose, normalise, prose_of_markup, prose_of_text, without_markup

MARKUP = {
    "paragraphs": ("First line\ngoes on.\n\n  Second.", ["First line goes on.", "Second."]),
    "doctest": (
        "Adds two numbers.\n\n>>> add(1, 2)\n3\n>>> add(2, 2)\n4\n\nIt is quick.",
        ["Adds two numbers.", "It is quick."],
    ),
    "doctest at once": ("Adds numbers.\n>>> add(1, 2)\n3", ["Adds numbers."]),
    "ipython": ("Plots.\n\nIn [1]: plot(x)\nOut[1]: <Figure>", ["Plots."]),
    "shell": ("Install it.\n\n$ pip install it\n\nUse it.", ["Install it.", "Use it."]),
    "fence": ("Run this.\n\n```python\nx = 1\n\nprint(x)\n```\n\nThat was it.", ["Run this.", "That was it."]),
    "literal block": (
        "Write this::\n\n    x = 1\n\n    y = 2\n\nand read on.",
        ["Write this:", "and read on."],
    ),
    "code directive": (
        "Before.\n\n.. code-block:: python\n   :linenos:\n\n   x = 1\n\nAfter.",
        ["Before.", "After."],
    ),
    "note": (".. note:: Take care\n   of it.\n\n.. warning::\n\n   It is hot.", ["Take care of it.", "It is hot."]),
    "version": ("Prose.\n\n.. versionadded:: 1.2\n   Not this.\n\nMore.", ["Prose.", "More."]),
    "comment": (".. _target:\n\nProse here.\n\n.. [1] Smith 2018", ["Prose here."]),
    "heading": ("Notes\n-----\nThe text below.\n\n# Title\n\nMore text.", ["The text below.", "More text."]),
    "simple table": (
        "A table:\n\n=====  =====\nA      B\n=====  =====\n1      2\n3      4\n=====  =====\n\nDone.",
        ["A table:", "Done."],
    ),
    "grid table": ("A.\n\n+---+---+\n| a | b |\n+---+---+\n| 1 | 2 |\n+---+---+\n\nB.", ["A.", "B."]),
    "numpy parameters": (
        "Parameters\n----------\nx : int, optional\n    The width of it.\n"
        "y : array_like of shape (n, 2)\n    The height.",
        ["The width of it.", "The height."],
    ),
    "google parameters": (
        "Does it.\n\nArgs:\n    x (int): The width,\n        which matters.\n    y: The height.\n\n"
        "Returns:\n    The area.",
        ["Does it.", "The width, which matters.", "The height.", "The area."],
    ),
    "sphinx parameters": (
        ":param int x: The width.\n:type y: int\n:param y: The height\n    in pixels.\n:rtype: int\n"
        ":returns: The area.",
        ["The width.", "The height in pixels.", "The area."],
    ),
    "bullets": ("Things:\n\n- one thing\n  goes on\n- two things\n\n1. first", [
        "Things:", "one thing goes on", "two things", "first",
    ]),
    "bullets with names": ("* `alpha`: The first.\n* `beta` (float): The second.", ["The first.", "The second."]),
    "a colon in prose": ("The order matters:\nfirst this, then\nthat: so it is.", [
        "The order matters: first this, then that: so it is.",
    ]),
    "empty": ("", []),
}  # fmt: skip


@pytest.mark.parametrize("name", MARKUP)
def test_prose_of_markup(name: str) -> None:
    text, paragraphs = MARKUP[name]
    assert prose_of_markup(text) == paragraphs


INLINE = [
    ("Use :class:`~torch.nn.Linear` or :func:`os.path.join`.", "Use Linear or join."),
    ("Use :meth:`the method <a.b.c>` here.", "Use the method here."),
    ("See `the docs <https://x.org/a>`_ now.", "See the docs now."),
    ("See [the docs](https://x.org/a) and ![a picture](b.png).", "See the docs and a picture."),
    ("A ``literal`` and a `word` and **bold** and *soft*.", "A literal and a word and bold and soft."),
    ("As in [1]_ and [Smith2018]_ it is.", "As in and it is."),
    ("Multiply 2 * 3 * 4 and a*b*c.", "Multiply 2 * 3 * 4 and a*b*c."),
    ("A <b>tag</b> goes.", "A tag goes."),
    (r"An escaped \*star\*.", "An escaped *star*."),
]


@pytest.mark.parametrize(("text", "plain"), INLINE)
def test_without_markup(text: str, plain: str) -> None:
    assert without_markup(text) == plain


def test_addresses_go() -> None:
    assert normalise(without_markup("See https://x.org/a?b=c#d for more.")) == "See for more."


PROSE = [
    "Return the number of elements in the list.",
    "If this is not given, the default (a small one) is used.",
    "The model's weights don't change, do they?",
    "A pass is a callable which modifies an object and returns it.",
]
NOT_PROSE = [
    "x = foo(bar)",
    "return self.value if self.value else None;",
    "{'a': 1, 'b': 2}",
    "int x, int y -> int z is the shape",
    "Foo.bar(baz).qux() is called with it",
    "0.1 0.2 0.3 0.4 is a row of 0.5",
    "A B C D E F",
    "See also.",
    "std::vector of ints is what it takes",
    "call f(a=1) and then go on with it",
    "import os, sys, re, json_tools, a_b, c_d",
    "C:\\Users\\me is the place to look",
    "Copyright NVIDIA Corporation And Affiliates",
]


@pytest.mark.parametrize("sentence", PROSE)
def test_prose(sentence: str) -> None:
    assert is_prose(sentence)


@pytest.mark.parametrize("sentence", NOT_PROSE)
def test_not_prose(sentence: str) -> None:
    assert not is_prose(sentence)


def test_normalise() -> None:
    assert normalise(" a\t b\n\u00a0c \u200bd\x00 e\u0301 ") == "a b c d é"


def test_plain_text_is_left_alone() -> None:
    text = "x = 1; y = {2}\r\nstill here\r\n\r\n----\n\nThe end."
    assert prose_of_text(text) == ["x = 1; y = {2} still here", "The end."]


RUNS = [
    ":a", ":a:", "`", "`a ", "*a", "* a", "<a", "[a](", "[a]", "![", "[a", "http://", "_", "(a", "a :", "\\*", "x",
    "::\n\n x",
    "- ", "| ", "= ", "=", "\n", "a: ", "a (b): ", "@a ", "  ",
]  # fmt: skip


@pytest.mark.parametrize("sign", RUNS)
def test_long_runs_take_no_longer_than_text(sign: str) -> None:
    """What grows with the square of the length would take hours."""
    prose_of_markup(sign * (200_000 // len(sign)) + " x")


def test_blank_lines_at_the_beginning_change_nothing() -> None:
    text = "\n  First::\n\n      code = 1\n\n  Second."
    assert prose_of_markup(text) == prose_of_markup("\n \n\n" + text) == ["First:", "Second."]
