"""Two hosts for real: what a user types on the first node, ssh to both, training over the wire between them.

A launch costs seconds, so a few runs are made once and several tests look at them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dsparse.train.metrics import read_rows
from tests.data.store_fixture import make_small_store
from tests.e2e.test_pretrain import STEPS, assert_same_end, results
from tests.hosts.two_hosts import ADDRESSES, CHECKOUT, NAMES, TwoHosts, why_not

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SAVE_EVERY = 4
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
    return ["launch/pretrain.py", *(word for key, value in settings.items() for word in (f"--{key}", str(value))), *flags]


def run(hosts: TwoHosts, command: list[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
    done = hosts.run(command, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


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
        away = run(hosts, ["ssh", NAMES[1 - number], f"hostname; hostname -I; cd {hosts.checkout}; ls -d * .deepspeed_env"])
        assert name not in away.stdout.splitlines() or number == 1
        seen.append(run(hosts, ["sh", "-c", "hostname; hostname -I; ps ax -o comm= | grep -c sshd"], host=number).stdout)
        assert (hosts.folder / name / "checkout/mine").is_file() and (hosts.hosts[number].disk / "mine").is_file()
        assert not (hosts.folder / NAMES[1] / "checkout/mine").exists() or number == 1
    for name, address, out in zip(NAMES, ADDRESSES, seen, strict=True):
        assert out.split() == [name, address, "1"]
    assert not (CHECKOUT / "mine").exists() and not Path("/dev/shm/mine").exists()


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


def test_a_host_that_does_not_answer_is_named(hosts: TwoHosts) -> None:
    """The first node's absence is found by the launcher, the second's by pdsh."""
    for number, absent in enumerate(("node-9 slots=1\nnode-1 slots=1\n", "node-0 slots=1\nnode-9 slots=1\n")):
        hostfile = hosts.shared / f"absent{number}"
        hostfile.write_text(absent)
        command = ["deepspeed", "--hostfile", str(hostfile), *words(hosts, "absent")]
        done = hosts.run(command)
        assert done.returncode != 0
        assert "node-9" in done.stderr
    assert not (hosts.shared / "absent").exists()


def test_the_link_can_be_cut_and_mended(hosts: TwoHosts) -> None:
    ssh = ["ssh", "-o", "ConnectTimeout=1", NAMES[1], "hostname"]
    hosts.cut_link()
    try:
        assert hosts.run(ssh).returncode == 255
    finally:
        hosts.mend_link()
    assert run(hosts, ssh).stdout.strip() == NAMES[1]


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
