"""Two hosts on one machine: Linux namespaces, a cable between them, an sshd in each.

Each host has its own network, host name, process numbers, /dev/shm, copy of the checkout and local disk. They share the
CPU, the Python environment (read-only) and one folder, as two nodes share a network drive. The address of a host is the
same in every pair, for no pair can see another. The kernel removes everything when a host's first process ends, and
that one ends with the process that started it, however that was killed.

    with TwoHosts(tmp_path) as hosts:
        done = hosts.run(["deepspeed", "--hostfile", str(hosts.hostfile), ...])
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

CHECKOUT = Path(__file__).resolve().parents[2]
NAMES = ("node-0", "node-1")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
INTERFACE = "eth0"
_TOOLS = ("ip", "nsenter", "pdsh", "setpriv", "ssh", "ssh-keygen", "sshd", "unshare")
_NAMESPACES = ("--net", "--uts", "--mount", "--ipc", "--pid")
# What belongs to one checkout and is no source.
_LEFT_OUT = (".git", ".venv", "build", "runs", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")
_START_TIMEOUT_S = 30.0


@functools.cache
def why_not() -> str | None:
    """Why there can be no two hosts here, in one line; None where there can."""
    if sys.platform != "linux":
        return f"two hosts need Linux's namespaces, this is {sys.platform}"
    missing = [tool for tool in _TOOLS if find_tool(tool) is None]
    if missing:
        return f"two hosts need {', '.join(missing)} (Debian: apt-get install openssh-server pdsh iproute2)"
    if os.geteuid() != 0:
        return "two hosts need root, to make namespaces"
    trial = (
        f"{find_tool('ip')} link add eth0 type veth peer name eth1 && mount -t tmpfs tmpfs /run && "
        "echo trial > /proc/sys/kernel/hostname"
    )
    done = subprocess.run(
        [*_unshare(), "sh", "-c", trial], capture_output=True, text=True, timeout=_START_TIMEOUT_S, check=False
    )
    return f"two hosts are not allowed here: {done.stderr.strip()}" if done.returncode else None


def find_tool(name: str) -> str | None:
    """A program's path; those for administrators are not on everybody's PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin")


@dataclass(frozen=True)
class Host:
    """One of the two, running."""

    name: str
    disk: Path
    """What the host sees at `TwoHosts.local`, as it is seen from outside."""
    first_process: subprocess.Popen[bytes]
    """Outside the host; its only child is the host's process 1."""
    pid: int
    """The host's process 1, as it is numbered outside."""


class TwoHosts:
    """Context manager; see the module. Raises RuntimeError if the hosts do not come up."""

    def __init__(self, folder: Path) -> None:
        """Nothing is started yet.

        Args:
            folder: empty; keys, disks and the shared folder go there.
        """
        self.folder = folder
        self.checkout = folder / "checkout"
        """The same path on both hosts, another copy on each."""
        self.local = folder / "local"
        """The same path on both hosts, another folder on each."""
        self.shared = folder / "shared"
        """One folder, at the same path on both hosts and outside."""
        self.hostfile = self.shared / "hostfile"
        self.hosts: list[Host] = []

    def __enter__(self) -> TwoHosts:
        try:
            for path in (self.checkout, self.local, self.shared, self.folder / "home"):
                path.mkdir(parents=True)
            self._write_ssh()
            self.hostfile.write_text("".join(f"{name} slots=1\n" for name in NAMES))
            for number in range(2):
                self.hosts.append(self._start_host(number))
            self._lay_cable()
            self._await_ssh()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def start(self, command: list[str], *, host: int = 0, **environment: str) -> subprocess.Popen[str]:
        """Starts a command on a host, in its checkout, as a user there does whose environment is activated."""
        words = [*self._enter(self.hosts[host]), "--", "sh", "-c", 'cd "$0" && exec "$@"', str(self.checkout), *command]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(words, env=self.environment() | environment, **pipes)

    def run(
        self, command: list[str], *, host: int = 0, timeout_s: float = 120.0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on a host to its end; after a timeout everything that was started on either host is killed."""
        process = self.start(command, host=host, **environment)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except BaseException as error:
            self.kill_everything()
            error.add_note("\n".join(process.communicate()))
            raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def environment(self) -> dict[str, str]:
        """What a user's shell on a host has."""
        kept = {key: os.environ[key] for key in ("LANG", "LC_ALL", "TERM") if key in os.environ}
        return kept | {"HOME": str(self.folder / "home")} | self.travelling()

    def travelling(self) -> dict[str, str]:
        """What `.deepspeed_env` carries to the ranks."""
        commands = Path(sys.executable).parent
        return {
            # Another ninja than the environment's own would compile DeepSpeed's op anew.
            "PATH": f"{commands}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": INTERFACE,
            "TORCH_EXTENSIONS_DIR": str(self.local / "torch_extensions"),
            "HF_HUB_OFFLINE": "1",
        }

    def processes(self, host: int) -> list[psutil.Process]:
        """What runs on a host beside its process 1 and what listens to ssh for it."""
        numbering = os.readlink(f"/proc/{self.hosts[host].pid}/ns/pid")
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                is_here = os.readlink(f"/proc/{process.pid}/ns/pid") == numbering
                if is_here and process.name() != "sshd":
                    found.append(process)
        return found

    def cut_link(self) -> None:
        """Pulls the cable: from now on every packet is lost and nobody is told."""
        self._ip(self.hosts[1], f"link set {INTERFACE} down")

    def mend_link(self) -> None:
        """Puts the cable back."""
        self._ip(self.hosts[1], f"link set {INTERFACE} up")

    def kill_everything(self) -> None:
        """Kills all processes of both hosts but sshd."""
        for number in range(2):
            for process in self.processes(number):
                with contextlib.suppress(psutil.Error):
                    process.kill()

    def _start_host(self, number: int) -> Host:
        name = NAMES[number]
        root = self.folder / name
        disk = root / "local"
        disk.mkdir(parents=True)
        shutil.copytree(CHECKOUT, root / "checkout", ignore=shutil.ignore_patterns(*_LEFT_OUT))
        _copy_compiled_ops(disk / "torch_extensions")
        variables = "".join(f"{key}={value}\n" for key, value in self.travelling().items())
        (root / "checkout/.deepspeed_env").write_text(variables)
        with (root / "log").open("wb") as log:
            first = subprocess.Popen(
                [*_unshare(), "sh", "-eu", "-c", self._boot(number)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        # The shell becomes the host's sshd, with the same number.
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not (children := psutil.Process(first.pid).children()):
            if first.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{name} did not start: {(root / 'log').read_text()}")
            time.sleep(0.01)
        return Host(name=name, disk=disk, first_process=first, pid=children[0].pid)

    def _boot(self, number: int) -> str:
        """The host's first script: its name, its view of the file system, its sshd."""
        root, ssh, here = self.folder / NAMES[number], self.folder / "ssh", shlex.quote
        prefix, users_ssh = sys.prefix, Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".ssh"
        lines = [
            f"echo {NAMES[number]} > /proc/sys/kernel/hostname",
            "mount -t tmpfs tmpfs /dev/shm",
            "mount -t tmpfs tmpfs /run",
            "mkdir /run/sshd",
            f"mount --bind {here(str(ssh / 'hosts'))} /etc/hosts",
            f"mount --bind {here(str(ssh / 'ssh_config'))} /etc/ssh/ssh_config",
            # The user's own keys and settings are neither used nor touched.
            f"if [ -d {here(str(users_ssh))} ]; then mount -t tmpfs tmpfs {here(str(users_ssh))}; fi",
            f"mount --bind {here(str(root / 'checkout'))} {here(str(self.checkout))}",
            f"mount --bind {here(str(root / 'local'))} {here(str(self.local))}",
            f"mount --bind {here(prefix)} {here(prefix)}",
            f"mount -o remount,ro,bind {here(prefix)}",
            f"exec {find_tool('sshd')} -D -e -f {here(str(ssh / 'sshd_config'))}",
        ]
        return "\n".join(lines)

    def _write_ssh(self) -> None:
        """One host key and one user key for both hosts, and settings that name them."""
        ssh = self.folder / "ssh"
        ssh.mkdir()
        for key in ("host_key", "user_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", str(ssh / key)]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        host_key = (ssh / "host_key.pub").read_text()
        (ssh / "known_hosts").write_text(f"{','.join((*NAMES, *ADDRESSES))} {host_key}")
        addresses = [f"{address} {name}\n" for address, name in zip(ADDRESSES, NAMES, strict=True)]
        (ssh / "hosts").write_text("127.0.0.1 localhost\n" + "".join(addresses))
        (ssh / "ssh_config").write_text(
            f"Host *\n  IdentityFile {ssh / 'user_key'}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {ssh / 'known_hosts'}\n  StrictHostKeyChecking yes\n  BatchMode yes\n"
            "  ConnectTimeout 5\n  ServerAliveInterval 5\n  ServerAliveCountMax 3\n"
        )
        (ssh / "sshd_config").write_text(
            f"HostKey {ssh / 'host_key'}\nAuthorizedKeysFile {ssh / 'user_key.pub'}\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nPermitRootLogin prohibit-password\nPidFile none\n"
        )

    def _lay_cable(self) -> None:
        one, other = self.hosts
        self._ip(one, f"link add {INTERFACE} type veth peer name {INTERFACE} netns {other.pid}")
        for host, address in zip(self.hosts, ADDRESSES, strict=True):
            self._ip(host, "link set lo up")
            self._ip(host, f"address add {address}/24 dev {INTERFACE}")
            self._ip(host, f"link set {INTERFACE} up")

    def _await_ssh(self) -> None:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        for number, name in enumerate(reversed(NAMES)):
            while (done := self.run(["ssh", name, "hostname"], host=number)).stdout.strip() != name:
                if time.monotonic() > deadline_s:
                    logs = [(self.folder / each / "log").read_text() for each in NAMES]
                    raise RuntimeError(f"{NAMES[number]} cannot reach {name}: {done.stderr} {logs}")
                time.sleep(0.1)

    def _ip(self, host: Host, words: str) -> None:
        command = ["nsenter", f"--target={host.pid}", "--net", str(find_tool("ip")), *words.split()]
        subprocess.run(command, check=True, timeout=_START_TIMEOUT_S)

    def _enter(self, host: Host) -> list[str]:
        return ["nsenter", f"--target={host.pid}", *_NAMESPACES]

    def _end(self) -> None:
        for host in self.hosts:
            # Process 1 takes all others of its host with it, the last one its network and its mounts.
            if host.first_process.poll() is None:
                os.kill(host.pid, signal.SIGKILL)
            host.first_process.wait(_START_TIMEOUT_S)


def _unshare() -> list[str]:
    """Makes the namespaces of a host. It ends with whoever started it, and the host's process 1 with it."""
    return ["setpriv", "--pdeathsig", "KILL", "unshare", *_NAMESPACES, "--fork", "--kill-child", "--mount-proc"]


def _copy_compiled_ops(folder: Path) -> None:
    """What DeepSpeed has compiled for this environment, so that the hosts need not; they may not write there."""
    compiled = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path(sys.prefix) / "torch_extensions")
    folder.mkdir()
    for op in compiled.rglob("deepspeed_shm_comm"):
        shutil.copytree(op, folder / op.relative_to(compiled), ignore=shutil.ignore_patterns("lock"))
