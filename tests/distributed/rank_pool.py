"""Real ranks that stay alive between tests: DeepSpeed takes seconds to start, an engine in a running process less.

`RankPool(2).run(function, …)` calls `function(…)` on every rank of one process group and returns what each said. The
function must be importable (top level of a module of `tests.distributed`), and its result plain data.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any


@dataclass(frozen=True)
class Failure:
    """An exception on a rank."""

    kind: str
    """Name of its class."""
    message: str
    details: str


class RankPool:
    """`num_ranks` processes joined by gloo, waiting for work."""

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        context = multiprocessing.get_context("spawn")
        port = _free_port()
        self._connections: list[Connection] = []
        self._processes = []
        for rank in range(num_ranks):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, num_ranks, port), daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    @property
    def is_alive(self) -> bool:
        """Whether all ranks still run."""
        return all(process.is_alive() for process in self._processes)

    def try_run(self, function: Callable[..., Any], *args: Any, timeout_s: float = 240, **kwargs: Any) -> list[Any]:
        """Per rank the result, or a `Failure`. The pool is closed when a rank does not answer in time."""
        for connection in self._connections:
            connection.send((function, args, kwargs))
        deadline = time.monotonic() + timeout_s
        results = []
        for rank, connection in enumerate(self._connections):
            if not connection.poll(max(0.0, deadline - time.monotonic())):
                self.close()
                raise TimeoutError(f"rank {rank} of {self.num_ranks} did not answer within {timeout_s} s")
            try:
                results.append(connection.recv())
            except EOFError:
                self.close()
                raise RuntimeError(f"rank {rank} of {self.num_ranks} died") from None
        return results

    def run(self, function: Callable[..., Any], *args: Any, timeout_s: float = 240, **kwargs: Any) -> list[Any]:
        """Per rank the result; a failure on any rank fails here."""
        results = self.try_run(function, *args, timeout_s=timeout_s, **kwargs)
        for rank, result in enumerate(results):
            if isinstance(result, Failure):
                raise AssertionError(f"rank {rank}: {result.details}")
        return results

    def close(self) -> None:
        """Ends all ranks."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()


def _serve(connection: Connection, rank: int, num_ranks: int, port: int) -> None:
    os.environ |= {
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    import warnings

    import torch

    torch.set_num_threads(1)
    # DeepSpeed 0.19.8 calls names that torch 2.13 deprecates; nothing of ours.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    _silence_deepspeed()
    while True:
        try:
            function, args, kwargs = connection.recv()
        except EOFError:
            return
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            result = Failure(type(error).__name__, str(error), traceback.format_exc())
        connection.send(result)


def _silence_deepspeed() -> None:
    from dsparse.engine.world import set_deepspeed_log_level

    set_deepspeed_log_level("error")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
