"""What every test has: the environment of a machine without network, and skips that give their reason."""

from __future__ import annotations

import os
import sys

# Before anything imports torch or DeepSpeed. One thread: small tensors are quicker so, and two ranks do not fight.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
# As in the Makefile: what DeepSpeed compiles is the environment's own.
os.environ.setdefault("TORCH_EXTENSIONS_DIR", os.path.join(sys.prefix, "torch_extensions"))

import signal
import socket
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, settings

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

# A shell that starts a job in the background has it ignore Ctrl-C, nohup hangups; tests send both to what they start.
for signum, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(signum) is signal.SIG_IGN:
        signal.signal(signum, usual)

# No deadline: a shared machine is slow at moments, and that is not what the properties are about.
settings.register_profile("dsparse", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dsparse")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Gives a TCP port that is free now, for `deepspeed --master_port`."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find
