"""Imports go down the list of rooms only, and only `engine` knows DeepSpeed and process groups.

The rooms are in docs/architecture.md. A room may import itself, any room below it, and nothing above.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the top down. Rooms on one level do not import each other.
LEVELS: list[set[str]] = [
    {"launch", "dsparse.cli"},
    {"dsparse.train"},
    {"dsparse"},  # the public surface, dsparse/__init__.py: names from below, by the short way
    {"dsparse.engine"},
    {"dsparse.models"},
    {"dsparse.layout"},
    {"dsparse.kernels"},
    {"dsparse.data"},
    {"dsparse.methods"},
    {"dsparse.checkpoint"},
    {"dsparse.pattern"},
    {"dsparse.files"},
    {"dsparse.schedule", "dsparse.flops", "dsparse.errors", "dsparse.faults"},
]
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
# Scripts beside the package.
SCRIPTS_MAY_IMPORT = {"data_prep": {"data_prep", "dsparse.data", "dsparse.files", "dsparse.errors"}}
# Every leaf may say what is wrong with its arguments.
ALWAYS_ALLOWED = {"dsparse.errors"}

# Third parties that belong to some rooms only.
DISTRIBUTED = ("deepspeed", "torch.distributed")
ROOMS_WITH_RANKS = {"dsparse.engine"}
# Pure rooms: functions of tensors and integers, without files or processes.
PURE_ROOMS = {"dsparse.pattern", "dsparse.methods", "dsparse.schedule", "dsparse.flops"}
IMPURE_MODULES = (
    "os",
    "io",
    "pathlib",
    "shutil",
    "tempfile",
    "subprocess",
    "multiprocessing",
    "random",
    "time",
    "json",
)


def room_of(module: str) -> str | None:
    """The room of a dotted module name, or of a name imported from one; None for the world outside."""
    parts = module.split(".")
    if parts[0] in ("launch", "data_prep"):
        return parts[0]
    if parts[0] != "dsparse":
        return None
    room = ".".join(parts[:2])
    if room in LEVEL_OF:
        return room
    # `dsparse.initialize` is a name of the public surface, `dsparse.attic.junk` a room that the list does not have.
    return "dsparse" if len(parts) <= 2 and not is_module(room) else f"{room}, which is in no list of rooms"


def is_module(dotted: str) -> bool:
    """Whether the checkout has a file or folder of this name."""
    path = ROOT / dotted.replace(".", "/")
    return dotted != "dsparse.__init__" and (path.is_dir() or path.with_suffix(".py").is_file())


def imported_modules(source: str, module: str) -> Iterator[str]:
    """Every module a file imports, wherever in the file and whether or not under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: -node.level]
                base = ".".join([*package, base] if base else package)
            # `from dsparse import engine` imports a room by name; `from x import name` may import the module x.name.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def is_or_within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def violations(source: str, module: str) -> list[str]:
    """What a file's imports break, one line each."""
    here = room_of(module)
    found = []
    for target in imported_modules(source, module):
        there = room_of(target)
        if here not in ROOMS_WITH_RANKS and is_or_within(target, DISTRIBUTED):
            found.append(f"{module} imports {target}: only {sorted(ROOMS_WITH_RANKS)} may")
        if here in PURE_ROOMS and is_or_within(target, IMPURE_MODULES):
            found.append(f"{module} imports {target}: {here} is pure")
        if there is not None and not may_import(here, there):
            found.append(f"{module} imports {target}: {here} may not import {there}")
    return found


def may_import(here: str | None, there: str) -> bool:
    if here == there or there in ALWAYS_ALLOWED:
        return True
    if here in SCRIPTS_MAY_IMPORT:
        return there in SCRIPTS_MAY_IMPORT[here]
    return here in LEVEL_OF and there in LEVEL_OF and LEVEL_OF[here] < LEVEL_OF[there]


def project_files() -> list[Path]:
    return sorted(path for room in ("dsparse", "launch", "data_prep") for path in (ROOT / room).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", project_files(), ids=module_name)
def test_imports_go_down(path: Path) -> None:
    assert violations(path.read_text(encoding="utf-8"), module_name(path)) == []


def test_every_file_is_in_a_known_room() -> None:
    known = {*LEVEL_OF, *SCRIPTS_MAY_IMPORT}
    assert {room_of(module_name(path)) for path in project_files()} <= known


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dsparse.pattern.edit", "from dsparse.methods import SET"),
        ("dsparse.pattern.edit", "def f():\n    import dsparse.engine.updater"),
        ("dsparse.pattern.edit", "from dsparse import engine"),
        ("dsparse.pattern.edit", "from ..engine import updater"),
        ("dsparse.pattern.edit", "import torch.distributed as dist"),
        ("dsparse.pattern.edit", "from torch import distributed"),
        ("dsparse.pattern.edit", "from pathlib import Path"),
        ("dsparse.schedule", "from dsparse.pattern import draw"),
        ("dsparse.schedule", "from dsparse import flops"),
        ("dsparse.train.loop", "import deepspeed"),
        ("dsparse.train.loop", "from deepspeed.utils import safe_get_full_grad"),
        ("dsparse.engine.engine", "from dsparse.train import loop"),
        ("dsparse.engine.engine", "from dsparse import SparseEngine"),
        ("dsparse.pattern.edit", "import dsparse"),
        ("dsparse.train.loop", "from dsparse import schedule\nfrom dsparse.attic.junk import thing"),
        ("dsparse.data.store", "import launch.pretrain"),
        ("data_prep.prepare", "from dsparse.train import config"),
    ],
)
def test_a_violation_is_caught(module: str, source: str) -> None:
    assert violations(source, module) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "dsparse.pattern.edit",
            "from dsparse.pattern.select import select_smallest\nfrom dsparse.errors import UserError",
        ),
        ("dsparse.engine.engine", "import deepspeed\nfrom dsparse.pattern import draw\nfrom dsparse import schedule"),
        ("dsparse.schedule", "import math\nfrom dsparse.errors import UserError"),
        ("dsparse.__init__", "from dsparse.engine import SparseEngine"),
        ("launch.pretrain", "from dsparse.train.loop import train"),
        ("dsparse.train.pretrain", "import dsparse\nfrom dsparse import SparseEngine"),
        ("data_prep.prepare", "from dsparse.data.store import IndexedWriter\nfrom data_prep.sources import text"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert violations(source, module) == []
