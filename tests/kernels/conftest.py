"""The CPU kernels at each of their instruction sets."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import torch

from dsparse.kernels import cpu, cpu_build

ISA_NAMES = [isa.name for isa in cpu_build.ALL_ISAS]


def set_isa(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Has cpu.py compute with this instruction set; skips where it cannot."""
    try:
        cpu._load(name)
    except (cpu_build.BuildError, ValueError) as reason:
        pytest.skip(str(reason))
    monkeypatch.setattr(cpu, "_loaded", functools.partial(cpu._load, name))


@pytest.fixture(params=ISA_NAMES)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set that this machine runs, AVX-512's code on narrower vectors included."""
    set_isa(monkeypatch, request.param)
    return request.param


@pytest.fixture
def best_isa() -> str:
    """The instruction set that users of this machine get."""
    available, said = cpu.is_available()
    if not available:
        pytest.skip(said)
    return said


@pytest.fixture
def torch_threads() -> Iterator[None]:
    """Puts torch's number of threads back afterwards."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
