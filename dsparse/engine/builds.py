"""DeepSpeed compiles small C++ ops at first use, one process at a time, held apart by a lock file for each op.

A build that was killed leaves its lock behind, and every later start would wait for it without a word and without end.
The builder keeps the file open while it works, so whether somebody on this machine holds it can be asked. A lock that
nobody here holds may still be another machine's, where the folder is shared: it is given the time of a slow build.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

_OPS = ("deepspeed_shm_comm", "cpu_adam", "fused_adam")
_SLOW_BUILD_S = 180.0
_SECONDS_BEFORE_A_WORD = 10.0

logger = logging.getLogger(__name__)


def use_compiled_ops() -> None:
    """Lets DeepSpeed find what `make setup` has compiled for this Python environment, unless told otherwise."""
    compiled = Path(sys.prefix) / "torch_extensions"
    if compiled.is_dir():
        os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(compiled))


def await_builds(*, may_remove: bool, slow_build_s: float = _SLOW_BUILD_S) -> None:
    """Returns when no op of DeepSpeed is locked for building; says what it waits for.

    Args:
        may_remove: whether this process removes a lock that nobody holds; one process of a machine should.
        slow_build_s: age at which a lock that nobody on this machine holds is taken for a killed build's.
    """
    for lock in _locks():
        begun_s, has_said = time.monotonic(), False
        while lock.exists():
            is_held = _is_held(lock)
            if may_remove and not is_held and _age_s(lock) > slow_build_s:
                logger.warning("removed %s: no process holds it, a build was killed", lock)
                lock.unlink(missing_ok=True)
                break
            if not has_said and may_remove and time.monotonic() - begun_s > _SECONDS_BEFORE_A_WORD:
                has_said = True
                logger.warning(
                    "waiting for %s, %s",
                    lock,
                    "another process builds it" if is_held else "which no process here holds: remove it if it is stale",
                )
            time.sleep(0.2)


def _locks() -> Iterator[Path]:
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for op in _OPS:
        yield from (*root.glob(f"{op}/lock"), *root.glob(f"*/{op}/lock"))


def _age_s(lock: Path) -> float:
    try:
        return time.time() - lock.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _is_held(lock: Path) -> bool:
    """Whether a process of this machine has the file open, as far as we may look."""
    path = str(lock.resolve())
    for process in psutil.process_iter():
        try:
            if any(file.path == path for file in process.open_files()):
                return True
        except psutil.Error:
            continue
    return False
