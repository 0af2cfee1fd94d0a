"""Starts each example as processes of its own, in a fraction of the time an interpreter takes to import DeepSpeed.

One process imports everything, starts no thread and no process group, and forks a child for each rank of each example;
the child runs `pretrain.main` as the interpreter would. It reads one request a line on stdin and answers with one line.

    {"folder": …, "argv": […], "num_ranks": 1, "limit_s": 60}  ->  {"codes": [2], "is_timed_out": false, "seconds": 0.4}

Ranks run in `folder` and write `out.R` and `err.R` beside it; one that trained leaves `checked.R` there.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

_MEMORY_BYTES = 16 * 2**30  # of address space, of which ZeRO-2 alone reserves 4 GiB for its buckets
_FILE_BYTES = 2**30
_LAUNCHER_GRACE_S = 1.0  # DeepSpeed's launcher looks after its ranks once a second
_POLL_S = 0.01


def serve() -> None:
    """Answers until stdin ends."""
    _import_everything()
    _build_ops()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps({"is_ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run_example(**json.loads(line))), file=answers, flush=True)


def run_example(folder: str, argv: list[str], num_ranks: int, limit_s: float) -> dict[str, Any]:
    """Runs all ranks of one example; ends them when one has failed, as the launcher does, or when the time is over.

    Returns:
        Per rank its exit code, None where it was ended from here; whether the time was over; seconds taken.
    """
    port, begun_s = _free_port(), time.monotonic()
    running = {rank: _fork(Path(folder), argv, rank, num_ranks, port) for rank in range(num_ranks)}
    codes: list[int | None] = [None] * num_ranks
    end_s, is_timed_out = begun_s + limit_s, True
    while running and time.monotonic() < end_s:
        for rank, pid in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            _end_group(running.pop(rank))  # workers that it left behind
            codes[rank] = os.waitstatus_to_exitcode(status)
            if codes[rank] != 0 and is_timed_out:
                end_s, is_timed_out = min(end_s, time.monotonic() + _LAUNCHER_GRACE_S), False
        time.sleep(_POLL_S)
    for pid in running.values():
        _end_group(pid)
        os.waitpid(pid, 0)
    return {
        "codes": codes,
        "is_timed_out": is_timed_out and bool(running),
        "seconds": time.monotonic() - begun_s,
    }


def _fork(folder: Path, argv: list[str], rank: int, num_ranks: int, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(
                os.open(folder.parent / f"{name}.{rank}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_APPEND), stream
            )
        # An example that asks for the whole machine is to fail, not the machine.
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if num_ranks > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_SIZE": str(num_ranks)}
            os.environ |= {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        code = _run(argv, folder.parent / f"checked.{rank}")
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _run(argv: list[str], report: Path) -> int:
    """The exit code an interpreter would end with."""
    from benchmarks.fuzz.check import checked
    from dsparse.train.pretrain import main

    sys.argv = ["pretrain.py", *argv]
    try:
        with checked(report):
            main()
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # mostly it left nothing behind
        os.killpg(pid, signal.SIGKILL)


def _import_everything() -> None:

    import dsparse.data.loader
    import dsparse.engine.initialize
    import dsparse.models.bert
    import dsparse.train.cost
    import dsparse.train.events
    import dsparse.train.loop
    import dsparse.train.monitor
    import dsparse.train.pictures
    import dsparse.train.pretrain
    import dsparse.train.report  # noqa: F401


def _build_ops() -> None:
    """Has DeepSpeed compile what it may need: an example that is ended while it builds would leave its lock behind."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    try:
        from deepspeed.accelerator import get_accelerator

        for name in ("CPUAdamBuilder", "FusedAdamBuilder", "ShareMemCommBuilder"):
            get_accelerator().create_op_builder(name).load(verbose=False)
    finally:
        os._exit(0)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    serve()
