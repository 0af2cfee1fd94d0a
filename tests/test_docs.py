"""What README and docs say is there: links, commands, settings and their defaults, code."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from dsparse.engine.config import SparsityConfig, parse_sparsity_block
from dsparse.train.config import RunConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def block_of(page: str, language: str) -> str:
    """The first block of a language on a page."""
    match = re.search(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert match is not None
    return match[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith("http"):
            continue
        linked = (page.parent / path) if path else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_there(page: Path) -> None:
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    for script in re.findall(r"\b((?:launch|data_prep|benchmarks|tools|tests|ds_configs|dsparse)/[\w/.]*\w)", text):
        assert (ROOT / script).exists(), script
    for module in re.findall(r"python -m ((?:dsparse|tests)[\w.]*)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_are_keys_of_a_run(page: Path) -> None:
    groups = {one.name: one.default_factory for one in fields(RunConfig)}
    for group, key in re.findall(r"--(model|data|train|checkpoint|monitor)\.(\w+)", page.read_text()):
        assert key in {one.name for one in fields(groups[group])}, f"{group}.{key}"  # type: ignore[arg-type]


def test_every_setting_stands_in_the_docs_with_its_default() -> None:
    table = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE)
    documented = {key: json.loads(default) for key, default in table}
    defaults = {one.name: one.default for one in fields(SparsityConfig)}
    assert documented == {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}


def test_the_block_in_the_readme_is_taken() -> None:
    block = json.loads("{" + block_of("README.md", "json") + "}")["dynamic_sparsity"]
    assert parse_sparsity_block(block).sparsity == 0.9


def test_versions_in_the_docs_are_those_pinned() -> None:
    pinned = re.search(r'"deepspeed==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert pinned is not None
    for page in PAGES:
        assert set(re.findall(r"DeepSpeed (\d+\.\d+\.\d+)", page.read_text())) <= {pinned[1]}, page
