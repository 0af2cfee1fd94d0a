"""Which backend is chosen, and what is said about it. The backends here are made up, so that any machine can choose."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch

from dsparse.errors import UserError
from dsparse.kernels import backend, reference
from dsparse.kernels.backend import KERNELS, find_backend

MakeBackend = Callable[..., ModuleType]


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Choices are kept for the life of a process."""
    find_backend.cache_clear()
    yield
    find_backend.cache_clear()


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> MakeBackend:
    """Puts a backend in the place of a real one."""

    def make(name: str, *, device: str = "cpu", blocks: tuple[int, ...] = (4, 8), problem: str = "") -> ModuleType:
        module = ModuleType(f"made_up_{name}")
        module.__dict__.update(
            NAME=name,
            is_available=lambda: (not problem, problem),
            supports=lambda block, dtype: block in blocks and dtype == torch.float32,
            runs_on=lambda device_type: device_type == device,
        )
        modules = {**backend._MODULES, name: module.__name__}
        monkeypatch.setattr(backend, "_MODULES", modules)
        monkeypatch.setattr(backend.importlib.util, "find_spec", lambda path: path)
        real = backend.importlib.import_module
        monkeypatch.setattr(
            backend.importlib, "import_module", lambda path: module if path == module.__name__ else real(path)
        )
        return module

    return make


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build without the fast backends."""
    gone = {name: f"dsparse.kernels.no_such_{name}" for name in ("cpu", "triton")}
    monkeypatch.setattr(backend, "_MODULES", {**backend._MODULES, **gone})


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(record.levelno, record.getMessage()) for record in caplog.records if record.name == backend.logger.name]


@pytest.mark.parametrize(("device", "name"), [("cpu", "cpu"), ("cuda", "triton")])
def test_auto_is_the_devices_own(
    made_up: MakeBackend, caplog: pytest.LogCaptureFixture, device: str, name: str
) -> None:
    own = made_up(name, device=device)
    with caplog.at_level(logging.INFO):
        assert find_backend("auto", device, 4, torch.float32) is own
    assert lines(caplog) == [(logging.INFO, f"packed layout, block size 4, float32, on {device}: kernel {name!r}")]


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_auto_on_another_device_is_the_reference(device: str) -> None:
    assert find_backend("auto", device, 4, torch.float32) is reference


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_reference_by_name_is_the_reference(device: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert find_backend("reference", device, 3, torch.float16) is reference
    assert lines(caplog) == []


def test_by_name(made_up: MakeBackend) -> None:
    own = made_up("triton", device="cuda")
    assert find_backend("triton", "cuda", 8, torch.float32) is own


@pytest.mark.parametrize(
    ("block", "dtype", "problem", "reason"),
    [
        (3, torch.float32, "", "it has no such block size or dtype"),
        (4, torch.float64, "", "it has no such block size or dtype"),
        (4, torch.float32, "no compiler", "no compiler"),
    ],
)
def test_what_the_own_cannot_falls_back_once_and_loudly(
    made_up: MakeBackend,
    caplog: pytest.LogCaptureFixture,
    block: int,
    dtype: torch.dtype,
    problem: str,
    reason: str,
) -> None:
    made_up("cpu", problem=problem)
    what = f"block size {block}, {str(dtype).removeprefix('torch.')}, on cpu"
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert find_backend("auto", "cpu", block, dtype) is reference
    assert lines(caplog) == [(logging.WARNING, f"packed layout, {what}: the slow reference kernel, because {reason}")]
    for _ in range(2):
        with pytest.raises(UserError) as error:
            find_backend("cpu", "cpu", block, dtype)
        assert str(error.value) == (
            f'Expected a kernel for {what}. Got \'cpu\': {reason}; choose "auto" or "reference".'
        )


def test_each_kind_of_weight_is_told(made_up: MakeBackend, caplog: pytest.LogCaptureFixture) -> None:
    made_up("cpu")
    with caplog.at_level(logging.INFO):
        for block in (3, 4, 5, 3, 4, 5):
            find_backend("auto", "cpu", block, torch.float32)
    assert [level for level, _ in lines(caplog)] == [logging.WARNING, logging.INFO, logging.WARNING]


def test_by_name_on_a_wrong_device(made_up: MakeBackend) -> None:
    made_up("triton", device="cuda")
    with pytest.raises(UserError, match=r"Got 'triton': it does not run on cpu; choose \"auto\" or \"reference\"\."):
        find_backend("triton", "cpu", 4, torch.float32)


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize(("device", "name"), [("cpu", "cpu"), ("cuda", "triton")])
def test_a_build_without(device: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert find_backend("auto", device, 4, torch.float32) is reference
    assert [level for level, _ in lines(caplog)] == [logging.WARNING]
    assert lines(caplog)[0][1].endswith("because it is not part of this build")
    with pytest.raises(UserError, match=f"Got '{name}': it is not part of this build"):
        find_backend(name, device, 4, torch.float32)


@pytest.mark.parametrize("name", ["", "fast", "Reference", "importlib"])
def test_unknown_name(name: str) -> None:
    with pytest.raises(UserError) as error:
        find_backend(name, "cpu", 4, torch.float32)
    assert str(error.value) == f"Expected a kernel out of 'auto', 'reference', 'cpu', 'triton'. Got {name!r}."


@pytest.mark.parametrize("block", [0, -1])
def test_no_block_size_at_all(block: int) -> None:
    with pytest.raises(UserError, match="it has no such block size or dtype"):
        find_backend("reference", "cpu", block, torch.float32)


def test_names() -> None:
    assert KERNELS == ("auto", "reference", "cpu", "triton")
    assert reference.NAME == "reference"
    assert set(backend._MODULES) == set(KERNELS) - {"auto"}


@pytest.mark.parametrize(("kernel", "device"), [("cpu", "cuda"), ("triton", "cpu"), ("triton", "mps")])
def test_the_real_ones_say_where_they_do_not_run(kernel: str, device: str) -> None:
    with pytest.raises(UserError, match=f"it does not run on {device}"):
        find_backend(kernel, device, 16, torch.float32)
