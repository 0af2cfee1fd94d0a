"""Who is running: ranks as the launcher started them, the process group, and the few sums a training loop needs.

Before `init_world` only the environment of the launcher is read, so that whatever can fail may fail before a process
group exists. A process without a launcher is a world of one.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from dsparse.engine.builds import await_builds

if TYPE_CHECKING:
    from torch import Tensor

    from dsparse.engine.agree import Agreement


def launched_rank() -> int:
    """This process's rank by the launcher's environment, 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def launched_world_size() -> int:
    """Number of ranks by the launcher's environment, 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched_local_rank() -> int:
    """This process's number among those on the same machine, 0 without a launcher."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def launched_local_size() -> int:
    """Number of ranks on this machine. DeepSpeed's launcher says LOCAL_SIZE, torchrun LOCAL_WORLD_SIZE."""
    return int(os.environ.get("LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE") or "1")


def init_world(timeout_s: float | None = None) -> None:
    """Starts DeepSpeed's default process group; a process without a launcher gets a group of its own.

    Args:
        timeout_s: seconds after which a collective gives up; None is DeepSpeed's default.
    """
    import deepspeed

    if "RANK" not in os.environ:
        # DeepSpeed would look for MPI instead.
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ.setdefault("MASTER_PORT", str(_free_port()))
    await_builds(may_remove=launched_local_rank() == 0)
    limit = {} if timeout_s is None else {"timeout": timedelta(seconds=timeout_s)}
    deepspeed.init_distributed(**limit)
    barrier()
    release_shared_buffers()


def release_shared_buffers() -> None:
    """Takes the name off the shared memory of DeepSpeed's CPU collectives, so that it goes when the process goes.

    DeepSpeed never removes it: each rank of each run would leave 67 MB of the machine's memory behind. Call it when
    every rank of the group has been heard of after `init_distributed`, in which they map each other's.
    """
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    name = f"deepspeed_allreduce_buffer_{os.getuid()}_{address}_{port}_{launched_rank()}"
    Path("/dev/shm", name).unlink(missing_ok=True)


def close_world() -> None:
    """Ends the process group, if there is one."""
    from deepspeed import comm as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Rank in the process group."""
    from deepspeed import comm as dist

    return int(dist.get_rank())


def world_size() -> int:
    """Number of ranks in the process group."""
    from deepspeed import comm as dist

    return int(dist.get_world_size())


def whole_world() -> Agreement:
    """The ranks of the process group, to agree on what needs no engine."""
    import torch
    from deepspeed.accelerator import get_accelerator

    from dsparse.engine.agree import Agreement

    return Agreement(None, torch.device(get_accelerator().current_device_name()))


def barrier() -> None:
    """Returns when every rank has called it."""
    from deepspeed import comm as dist

    dist.barrier()


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    """Element by element sums over all ranks, in float64, the same on every rank. Every rank must call it."""
    return [float(value) for value in sum_on_device(values).tolist()]


def sum_on_device(values: Sequence[float]) -> Tensor:
    """As `sum_over_ranks`, [n] float64 on the accelerator, which nobody waits for."""
    import torch
    from deepspeed import comm as dist
    from deepspeed.accelerator import get_accelerator

    sums = torch.tensor(list(values), dtype=torch.float64, device=get_accelerator().current_device_name())
    dist.all_reduce(sums)
    return sums


def mean_over_ranks(values: Sequence[float]) -> list[float]:
    """Element by element means over all ranks, in float64, the same on every rank. Every rank must call it."""
    return [value / world_size() for value in sum_over_ranks(values)]


def set_deepspeed_log_level(level: str) -> None:
    """Lets DeepSpeed say only what is at least this grave: "debug", "info", "warning" or "error".

    Two warnings that come of DeepSpeed's own calls, and that nobody can act on, are left out above "info".
    """
    from deepspeed.utils import logger

    grade = getattr(logging, level.upper())
    logger.setLevel(grade)
    for handler in logger.handlers:
        handler.setLevel(grade)
    if grade > logging.INFO:
        # Every scheduler asks itself for a rate before its first step, and is told that it has none.
        logger.addFilter(lambda record: "scheduler before it has started" not in record.getMessage())
        # DeepSpeed calls collectives of torch by names that torch is about to retire.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
