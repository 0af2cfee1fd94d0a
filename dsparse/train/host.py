"""The machine's side of training on CPUs: threads and memory, set before torch allocates anything.

Two ranks that each use every core slow each other down, and DeepSpeed's launcher sets no thread count. And glibc gives
every buffer above 32 MiB fresh pages and takes them back when it is freed, so that a large activation costs more in
page faults than in arithmetic: a dense BERT step takes up to a quarter less time with that turned off.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # <malloc.h>
_NEVER_TRIM_BYTES = 2**31 - 1


def tune_host(num_local_ranks: int) -> str:
    """Sets threads and allocator of this process and returns one line that says so.

    Threads are left alone where OMP_NUM_THREADS is set, the allocator where it is not glibc's.
    """
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads is None:
        # In the environment too: libraries loaded later, and worker processes, read it there.
        os.environ["OMP_NUM_THREADS"] = threads = str(max(1, num_cores // num_local_ranks))
        import torch

        torch.set_num_threads(int(threads))
        origin = f"{num_cores} cores / {num_local_ranks} local ranks"
    else:
        origin = "OMP_NUM_THREADS"
    kept = "kept by the allocator (mallopt M_MMAP_MAX=0)" if _keep_freed_memory() else "left to the system's allocator"
    return f"{threads} threads per rank ({origin}); freed memory is {kept}"


def _keep_freed_memory() -> bool:
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return mallopt(_M_MMAP_MAX, 0) == 1 and mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM_BYTES) == 1


def peak_memory_gib() -> float:
    """Most memory this process has held so far, GiB (of 2**30 bytes)."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / 2**30 if sys.platform == "darwin" else kib / 2**20


def peak_device_memory_gib() -> float | None:
    """Most memory this process has held on its GPU, GiB; None where there is none."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
