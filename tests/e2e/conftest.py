"""A store and a folder for the runs of a module's tests, made once for each module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.store_fixture import make_small_store
from tests.e2e.lab import Lab, find_free_port
from tests.e2e.launches import Launches


@pytest.fixture(scope="module")
def with_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a token store in it."""
    root = tmp_path_factory.mktemp("runs")
    make_small_store(root / "store")
    return root


@pytest.fixture(scope="module")
def lab(with_store: Path) -> Lab:
    """Starts runs and waits for their end."""
    return Lab(with_store, find_free_port)


@pytest.fixture(scope="module")
def launches(with_store: Path) -> Iterator[Launches]:
    """Starts runs that a test does something to; what is left of them is ended."""
    made = Launches(with_store, find_free_port)
    yield made
    made.close()
