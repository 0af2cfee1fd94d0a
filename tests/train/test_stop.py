"""Signals to one process: what it says, its exit code, and what happens at the second. Each case is a forked child."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
import torch

from dsparse.engine.deferred import Deferred
from dsparse.train.launcher import is_launcher
from dsparse.train.stop import SAME_REQUEST_S, StopRequest, StopSignals
from dsparse.train.streams import output_may_lose_its_reader


class Child:
    """Runs a function in a fork, which tells when it is ready for signals."""

    def __init__(self, body: Callable[[Callable[[], None]], object]) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                body(lambda: os.close(writer))
                code = 0
            except SystemExit as stop:
                code = int(stop.code or 0)
            finally:
                os._exit(code)
        os.close(writer)
        os.read(reader, 1)  # its end of the pipe is closed
        os.close(reader)

    def send(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def code(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline_s = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.01)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_before_training_it_ends_at_once_with_one_line(signum: int, capfd: pytest.CaptureFixture[str]) -> None:
    def body(ready: Callable[[], None]) -> None:
        with StopSignals(lambda: "nothing to save yet"):
            ready()
            until(lambda: False)

    child = Child(body)
    child.send(signum)
    child.send(signum)  # as a launcher does that hears of it too
    assert child.code() == 128 + signum
    assert capfd.readouterr().err == "nothing to save yet\n"


def test_before_training_a_main_thread_that_hangs_on_its_way_out_is_not_waited_for() -> None:
    def body(ready: Callable[[], None]) -> None:
        with StopSignals(lambda: None):
            ready()
            try:
                until(lambda: False)
            finally:
                threading.Event().wait(60)

    child = Child(body)
    t0_s = time.monotonic()
    child.send(signal.SIGTERM)
    assert child.code() == 128 + signal.SIGTERM
    assert time.monotonic() - t0_s < 30


def test_in_training_it_is_a_wish_and_signals_that_follow_are_the_same_wish() -> None:
    def body(ready: Callable[[], None]) -> None:
        with StopSignals(lambda: "not said") as signals:
            signals.begin_training()
            ready()
            until(lambda: signals.request.wanted)
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)
            assert signals.request.wanted
        os.kill(os.getpid(), signal.SIGTERM)  # on the way out, it spoils nothing

    child = Child(body)
    child.send(signal.SIGTERM)
    assert child.code() == 0


def test_asked_again_it_ends_at_once() -> None:
    def body(ready: Callable[[], None]) -> None:
        with StopSignals(lambda: None) as signals:
            signals.begin_training()
            ready()
            until(lambda: False, 60)

    child = Child(body)
    child.send(signal.SIGTERM)
    time.sleep(SAME_REQUEST_S + 0.5)
    child.send(signal.SIGINT)
    assert child.code() == 128 + signal.SIGINT


def test_once_it_has_saved_no_signal_spoils_the_exit_code() -> None:
    """DeepSpeed's launcher signals the second rank when the first has ended."""

    def body(ready: Callable[[], None]) -> None:
        with StopSignals(lambda: None) as signals:
            signals.begin_training()
            ready()
            until(lambda: signals.request.wanted)
            signals.saved()
            time.sleep(SAME_REQUEST_S + 0.5)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)

    child = Child(body)
    child.send(signal.SIGTERM)
    assert child.code() == 0


def test_what_was_ignored_stays_ignored_and_the_rest_is_put_back() -> None:
    def body(ready: Callable[[], None]) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with StopSignals(lambda: None) as signals:
            signals.begin_training()
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.3)
            assert not signals.request.wanted
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        ready()

    assert Child(body).code() == 0


def test_all_ranks_read_what_was_summed_when_the_step_began() -> None:
    request = StopRequest()
    assert not request.is_agreed()
    for num_asked, agreed in ((0.0, False), (1.0, True), (2.0, True)):
        request.share(torch.tensor([num_asked], dtype=torch.float64))
        assert request.is_agreed() is agreed


@pytest.mark.gpu
def test_the_host_reads_the_device_later() -> None:
    values = torch.tensor([3.0, 4.0], dtype=torch.float64, device="cuda")
    deferred = Deferred(values)
    values += 1
    assert deferred.read() == [3.0, 4.0]


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ("/usr/bin/python /env/bin/deepspeed --num_gpus 2 train.py", True),
        ("/usr/bin/python -u -m deepspeed.launcher.launch --world_info=eyJ9 train.py", True),
        ("/usr/bin/python /env/bin/torchrun --nproc_per_node 2 train.py", True),
        ("/usr/bin/python -m torch.distributed.run train.py", True),
        ("/bin/bash -c deepspeed --num_gpus 2 train.py", False),
        ("bash train_with_deepspeed.sh", False),
        ("/usr/bin/python train.py deepspeed", False),
        ("slurmstepd: [12.0]", False),
        ("", False),
    ],
)
def test_launchers_are_known_by_their_name(line: str, is_one: bool) -> None:
    assert is_launcher(line.split()) is is_one


def test_output_without_a_reader_ends_nothing() -> None:
    code = (
        "import sys\n"
        "from dsparse.train.streams import output_may_lose_its_reader\n"
        "with output_may_lose_its_reader():\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    for _ in range(3):\n"
        "        print('nobody reads this', flush=True)\n"
        "    print(sys.stdout.isatty(), file=sys.stderr, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdin is not None and process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    process.stdin.write("\n")
    process.stdin.close()
    assert process.stderr.read() == "False\n"
    process.stderr.close()
    assert process.wait(30) == 0


def test_streams_are_put_back() -> None:
    before = sys.stdout, sys.stderr
    with output_may_lose_its_reader():
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr) == before
