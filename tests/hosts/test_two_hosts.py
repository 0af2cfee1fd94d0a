"""Two hosts for real: what a user types on the first node, ssh to both, training over the wire between them.

A launch costs seconds, so a few runs are made once and several tests look at them.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dsparse.checkpoint.patterns import FILE_NAME
from dsparse.engine.checkpoint_files import read_data
from dsparse.train.metrics import read_rows
from tests.data.store_fixture import make_small_store
from tests.e2e.lab import STEPS, assert_same_end, differences, results
from tests.hosts.two_hosts import ADDRESSES, CHECKOUT, NAMES, TwoHosts, why_not

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SAVE_EVERY = 4
TIMEOUT_S = 15
"""Of the watchdog, where the link is cut."""
# What a rank takes besides to notice that it is alone, and ssh's ServerAliveInterval x ServerAliveCountMax.
BOUND_S = TIMEOUT_S + 15 + 20
ONE_HOST = ["deepspeed", "--num_gpus", "2"]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts]:
    if reason := why_not():
        pytest.skip(reason)
    with TwoHosts(tmp_path_factory.mktemp("hosts") / "two") as hosts:
        make_small_store(hosts.shared / "store")
        yield hosts


def both(hosts: TwoHosts) -> list[str]:
    """The launcher with a rank on each host."""
    return ["deepspeed", "--hostfile", str(hosts.hostfile), "--log_level", "warning"]


def words(hosts: TwoHosts, output: str, *flags: str, engine: str = "zero1") -> list[str]:
    """The script and its flags."""
    config = json.loads((CHECKOUT / f"ds_configs/{engine}.json").read_text())
    config["dynamic_sparsity"] |= {"updates": 6, "sparsity": 0.8}
    path = hosts.shared / f"{engine}.json"
    path.write_text(json.dumps(config))
    settings = {
        "config": "launch/presets/tiny.yaml",
        "deepspeed_config": path,
        "data.store": hosts.shared / "store",
        "output": hosts.shared / output,
        "model.dropout": 0.1,
        "train.steps": STEPS,
        "train.warmup_steps": 4,
        "train.global_batch_size": 16,
        "train.micro_batch_size": 4,
        "train.log_every": 1,
        "train.eval_samples": 20,
        "checkpoint.save_every": SAVE_EVERY,
        "monitor.pattern_every": 0,
    }
    return [
        "launch/pretrain.py",
        *(word for key, value in settings.items() for word in (f"--{key}", str(value))),
        *flags,
    ]


def run(hosts: TwoHosts, command: list[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
    done = hosts.run(command, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def await_text(process: subprocess.Popen[str], text: str, timeout_s: float = 60.0) -> None:
    """Returns when the process has said so on stderr."""
    assert process.stderr is not None
    descriptor, said, deadline_s = process.stderr.fileno(), "", time.monotonic() + timeout_s
    while text not in said:
        assert select.select([descriptor], [], [], deadline_s - time.monotonic())[0], said
        more = os.read(descriptor, 65536).decode()
        assert more, said
        said += more


def ranks(hosts: TwoHosts) -> list[psutil.Process]:
    """Processes of both hosts that train."""
    found = []
    for process in (*hosts.processes(0), *hosts.processes(1)):
        with contextlib.suppress(psutil.Error):
            if any(word.startswith("--local_rank") for word in process.cmdline()):
                found.append(process)
    return found


@pytest.fixture(scope="module")
def one_host(hosts: TwoHosts) -> Path:
    """Two ranks on one host, ZeRO 1, not interrupted."""
    run(hosts, [*ONE_HOST, *words(hosts, "one_host")])
    return hosts.shared / "one_host"


@pytest.fixture(scope="module")
def two_hosts(hosts: TwoHosts) -> Path:
    """The same run with a rank on each host."""
    done = run(hosts, [*both(hosts), *words(hosts, "two_hosts")])
    assert "node-0: " in done.stdout and "step 12/12" in done.stdout
    return hosts.shared / "two_hosts"


def test_they_are_two(hosts: TwoHosts) -> None:
    """Each has its own name, address, checkout, disk and processes; the environment cannot be written to."""
    seen = []
    for number, name in enumerate(NAMES):
        run(hosts, ["touch", "mine", str(hosts.local / "mine"), "/dev/shm/mine"], host=number)
        away = run(
            hosts, ["ssh", NAMES[1 - number], f"hostname; hostname -I; cd {hosts.checkout}; ls -d * .deepspeed_env"]
        )
        assert name not in away.stdout.splitlines() or number == 1
        seen.append(
            run(hosts, ["sh", "-c", "hostname; hostname -I; ps ax -o comm= | grep -c sshd"], host=number).stdout
        )
        assert (hosts.folder / name / "checkout/mine").is_file() and (hosts.hosts[number].disk / "mine").is_file()
        assert not (hosts.folder / NAMES[1] / "checkout/mine").exists() or number == 1
    for name, address, out in zip(NAMES, ADDRESSES, seen, strict=True):
        assert out.split() == [name, address, "1"]
    assert not (CHECKOUT / "mine").exists() and not Path("/dev/shm/mine").exists()


def test_what_travels_stands_in_the_docs(hosts: TwoHosts) -> None:
    page = (CHECKOUT / "docs/multi-node.md").read_text()
    of_the_test = {"HF_HUB_OFFLINE", "TORCH_EXTENSIONS_DIR"}
    for variable in hosts.travelling().keys() - of_the_test:
        assert f"`{variable}" in page, variable


def test_two_hosts_end_in_the_bits_of_one(one_host: Path, two_hosts: Path) -> None:
    """Weights, masters, moments, patterns, schedule and data position; losses and every update on the way."""
    assert_same_end(one_host, two_hosts)
    assert results(two_hosts) == results(one_host)
    assert sum(row["kind"] == "update" for row in read_rows(two_hosts)) == 5


def test_stopped_and_resumed_over_two_hosts_ends_in_the_same_bits(hosts: TwoHosts, two_hosts: Path) -> None:
    run(hosts, [*both(hosts), *words(hosts, "resumed", "--train.stop_at_step", "6")])
    assert (hosts.shared / "resumed/checkpoints/latest").read_text() == "step6"
    done = run(hosts, [*both(hosts), *words(hosts, "resumed", "--checkpoint.resume", "auto")])
    assert "going on from" in done.stdout
    assert_same_end(two_hosts, hosts.shared / "resumed")
    assert results(hosts.shared / "resumed") == results(two_hosts)


def test_zero3_over_two_hosts_ends_in_the_bits_of_one(hosts: TwoHosts) -> None:
    run(hosts, [*ONE_HOST, *words(hosts, "zero3_one_host", engine="zero3")])
    run(hosts, [*both(hosts), *words(hosts, "zero3", engine="zero3")])
    assert_same_end(hosts.shared / "zero3_one_host", hosts.shared / "zero3")
    assert results(hosts.shared / "zero3") == results(hosts.shared / "zero3_one_host")


def test_an_output_that_only_one_host_sees_is_refused(hosts: TwoHosts) -> None:
    command = [*both(hosts), *words(hosts, "unused", "--output", str(hosts.local / "unshared"))]
    done = hosts.run(command)
    assert done.returncode != 0
    assert "1 of 2 ranks do not find the run" in done.stderr and "Traceback" not in done.stderr
    assert "use_node_local_storage" in done.stderr
    assert not (hosts.hosts[0].disk / "unshared/metrics.jsonl").read_text()


def test_hosts_that_find_other_checkpoints_stop(hosts: TwoHosts, two_hosts: Path) -> None:
    """The second host's disk is that of a node which was replaced."""
    shutil.copytree(two_hosts, hosts.hosts[0].disk / "replaced")
    command = words(hosts, "unused", "--output", str(hosts.local / "replaced"), "--checkpoint.resume", "auto")
    done = hosts.run([*both(hosts), *command])
    assert done.returncode != 0
    assert "to find the same checkpoint on every rank" in done.stderr and "Traceback" not in done.stderr


def test_torchrun_over_two_hosts_ends_in_the_same_bits(hosts: TwoHosts, one_host: Path) -> None:
    """Typed on each node; no ssh, no hostfile."""
    meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", NAMES[0], "--master-port", "29500"]
    command = ["torchrun", *meeting, *words(hosts, "torchrun")]
    other = hosts.start([*command[:1], "--node-rank", "1", *command[1:]], host=1)
    run(hosts, [*command[:1], "--node-rank", "0", *command[1:]])
    out, err = other.communicate(timeout=60)
    assert other.returncode == 0, out + err
    assert_same_end(one_host, hosts.shared / "torchrun")
    assert results(hosts.shared / "torchrun") == results(one_host)


def test_each_host_with_a_disk_of_its_own_ends_in_the_same_bits(hosts: TwoHosts, one_host: Path) -> None:
    """A copy of the store on each, and checkpoints where they were written; stopped and resumed."""
    for host in hosts.hosts:
        shutil.copytree(hosts.shared / "store", host.disk / "store")
    command = words(hosts, "unused", "--output", str(hosts.local / "run"), "--data.store", str(hosts.local / "store"))
    apart = hosts.shared / "apart.json"
    config = json.loads((hosts.shared / "zero1.json").read_text())
    apart.write_text(json.dumps(config | {"checkpoint": {"use_node_local_storage": True}}))
    command += ["--deepspeed_config", str(apart)]
    run(hosts, [*both(hosts), *command, "--train.stop_at_step", "6"])
    run(hosts, [*both(hosts), *command, "--checkpoint.resume", "auto"])
    own = [host.disk / "run" for host in hosts.hosts]
    for number, disk in enumerate(own):
        assert (disk / "checkpoints/latest").read_text() == f"step{STEPS}"
        assert (disk / "run.json").is_file()
        shards = [path.name for path in (disk / f"checkpoints/step{STEPS}").glob("zero_pp_rank_*")]
        assert shards == [f"zero_pp_rank_{number}_mp_rank_00_optim_states.pt"]
    assert results(own[0]) == results(one_host)
    for number, disk in enumerate(own):
        here, there = disk / f"checkpoints/step{STEPS}", one_host / f"checkpoints/step{STEPS}"
        for name in ("mp_rank_00_model_states.pt", f"zero_pp_rank_{number}_mp_rank_00_optim_states.pt"):
            saved = [read_data(folder / name) for folder in (here, there)]
            for one in saved:
                one.pop("ds_config")  # which has the setting
                if number > 0:
                    one.pop("shared_params", None)  # an index for DeepSpeed's converters, which only rank 0 makes
            assert differences(*saved) == [], name
        assert (here / FILE_NAME).read_bytes() == (there / FILE_NAME).read_bytes()


def test_a_first_host_that_does_not_answer_is_named(hosts: TwoHosts) -> None:
    (hosts.shared / "absent").write_text("node-9 slots=1\nnode-1 slots=1\n")
    done = hosts.run(["deepspeed", "--hostfile", str(hosts.shared / "absent"), *words(hosts, "never")])
    assert done.returncode != 0 and "host=node-9 was not reachable via ssh" in done.stderr


def test_a_second_host_that_does_not_answer_is_named_and_the_first_can_be_stopped(hosts: TwoHosts) -> None:
    """pdsh starts the others all the same; they wait for it until Ctrl-C, which leaves nobody behind."""
    (hosts.shared / "absent").write_text("node-0 slots=1\nnode-9 slots=1\n")
    launcher = hosts.start(["deepspeed", "--hostfile", str(hosts.shared / "absent"), *words(hosts, "never")])
    try:
        await_text(launcher, "node-9: ssh exited with exit code 255")
        deadline_s = time.monotonic() + 60
        while len(ranks(hosts)) < 1:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        # The launcher is what the shell has become; nsenter waits for it outside.
        psutil.Process(launcher.pid).children()[0].send_signal(signal.SIGINT)
        launcher.communicate(timeout=60)
        assert launcher.returncode != 0
        psutil.wait_procs(ranks(hosts), timeout=20)
        assert ranks(hosts) == []
    finally:
        hosts.kill_everything()
        launcher.communicate()
    assert not (hosts.shared / "never").exists()


def test_the_link_can_be_cut_and_mended(hosts: TwoHosts) -> None:
    ssh = ["ssh", "-o", "ConnectTimeout=1", NAMES[1], "hostname"]
    hosts.cut_link()
    try:
        assert hosts.run(ssh).returncode == 255
    finally:
        hosts.mend_link()
    assert run(hosts, ssh).stdout.strip() == NAMES[1]


def test_a_cut_link_ends_both_sides_and_the_run_goes_on_from_its_checkpoint(hosts: TwoHosts, one_host: Path) -> None:
    command = [*both(hosts), *words(hosts, "cut", "--train.timeout_s", str(TIMEOUT_S))]
    launcher = hosts.start(command)
    try:
        deadline_s = time.monotonic() + 60
        while not any(row["step"] >= 5 for row in read_rows(hosts.shared / "cut")):
            assert launcher.poll() is None and time.monotonic() < deadline_s
            time.sleep(0.02)
        hosts.cut_link()
        cut_s = time.monotonic()
        # node-0's pdsh waits for its ssh to node-1, which gives up after ServerAliveInterval x ServerAliveCountMax.
        _, err = launcher.communicate(timeout=BOUND_S)
        assert launcher.returncode != 0
        assert "rank" in err and "step" in err and "Traceback" not in err
        psutil.wait_procs(ranks(hosts), timeout=max(0.0, cut_s + BOUND_S - time.monotonic()))
        assert ranks(hosts) == []
    finally:
        hosts.kill_everything()
        hosts.mend_link()
        launcher.communicate()
    assert (hosts.shared / "cut/checkpoints/latest").read_text() == "step4"
    run(hosts, [*command, "--checkpoint.resume", "auto"])
    assert_same_end(one_host, hosts.shared / "cut")
    assert results(hosts.shared / "cut") == results(one_host)
    assert max(row["step"] for row in read_rows(hosts.shared / "cut")) == STEPS


def test_nothing_remains(tmp_path: Path, hosts: TwoHosts) -> None:
    """Also when it ends by an error and somebody still works there."""
    with pytest.raises(ZeroDivisionError), TwoHosts(tmp_path / "gone") as gone:
        worker = gone.start(["ssh", NAMES[1], "sleep 600"])
        pids = [host.pid for host in gone.hosts] + [host.first_process.pid for host in gone.hosts]
        assert all(psutil.pid_exists(pid) for pid in pids)
        raise ZeroDivisionError
    worker.communicate(timeout=10)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    assert run(hosts, ["ssh", NAMES[1], "hostname"]).stdout.strip() == NAMES[1]  # another pair is left alone
