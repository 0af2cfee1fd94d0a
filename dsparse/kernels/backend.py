"""Which backend computes: one per device by default, any that can by name.

A backend is a module with three functions of one signature (see `reference`), a NAME, `supports(block, dtype)` and
`is_available()`. What is chosen, and what was passed over and why, is logged once for each kind of weight.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from types import ModuleType
from typing import Literal, get_args

import torch

from dsparse.errors import UserError

logger = logging.getLogger(__name__)

Kernel = Literal["auto", "reference", "cpu", "triton"]
KERNELS: tuple[str, ...] = get_args(Kernel)

_OF_DEVICE = {"cpu": "cpu", "cuda": "triton"}
_MODULES = {
    "reference": "dsparse.kernels.reference",
    "cpu": "dsparse.kernels.cpu",
    "triton": "dsparse.kernels.triton_backend",
}


@functools.lru_cache(maxsize=256)
def find_backend(kernel: str, device_type: str, block: int, dtype: torch.dtype) -> ModuleType:
    """The backend for a weight.

    Args:
        kernel: "auto" for the device's own, or the reference where that one cannot; else the name of one.
        device_type: "cpu", "cuda" …, of the tensors.
        block: elements per block side.
        dtype: of the tensors.

    Raises:
        UserError: the backend asked for by name is not there, or does not have the block size or dtype.
    """
    if kernel not in KERNELS:
        raise UserError(f"Expected a kernel out of {', '.join(map(repr, KERNELS))}. Got {kernel!r}.")
    name = _OF_DEVICE.get(device_type, "reference") if kernel == "auto" else kernel
    what = f"block size {block}, {str(dtype).removeprefix('torch.')}, on {device_type}"
    problem = _problem(name, device_type, block, dtype)
    if problem and kernel != "auto":
        raise UserError(f'Expected a kernel for {what}. Got {name!r}: {problem}; choose "auto" or "reference".')
    if problem:
        logger.warning("packed layout, %s: the slow reference kernel, because %s", what, problem)
        name = "reference"
    else:
        logger.info("packed layout, %s: kernel %r", what, name)
    return importlib.import_module(_MODULES[name])


def _problem(name: str, device_type: str, block: int, dtype: torch.dtype) -> str | None:
    """Why a backend cannot compute that; None if it can."""
    if importlib.util.find_spec(_MODULES[name]) is None:
        return "it is not part of this build"
    backend = importlib.import_module(_MODULES[name])
    if _OF_DEVICE.get(device_type) != name and not backend.runs_on(device_type):
        return f"it does not run on {device_type}"
    is_available, reason = backend.is_available()
    if not is_available:
        return reason
    return None if backend.supports(block, dtype) else "it has no such block size or dtype"
