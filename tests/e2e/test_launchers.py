"""Who starts the ranks does not matter: DeepSpeed's launcher, torchrun, or SLURM by launch/pretrain.slurm.

There is no SLURM here. `srun` and `scontrol` are stand-ins of a few lines, which start the script's tasks with the
environment that SLURM's manual gives them; what is tested is the script and the ranks, not SLURM.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsparse.train.config import CHECKOUT
from dsparse.train.metrics import read_rows
from tests.e2e.lab import TIMEOUT_S, Lab, assert_same_end, find_free_port, results

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SCRIPT = CHECKOUT / "launch/pretrain.slurm"

STAND_IN_SRUN = """#!/usr/bin/env bash
# A stand-in for srun on one machine: SLURM_NTASKS tasks; one that fails ends the others; SIGTERM goes to the tasks.
while [[ "$1" == -* ]]; do shift; done
tasks=()
for ((number = 0; number < SLURM_NTASKS; number++)); do
  SLURM_PROCID=$number SLURM_LOCALID=$number SLURM_STEP_TASKS_PER_NODE="$SLURM_NTASKS" "$@" & tasks+=($!)
done
trap 'signalled=1; kill -TERM "${tasks[@]}" 2>/dev/null' TERM
code=0 left=$SLURM_NTASKS signalled=0
while ((left > 0)); do
  wait -n
  status=$?
  if ((signalled)); then signalled=0; continue; fi  # a wait that the signal cut short
  left=$((left - 1))
  if ((status != 0 && code == 0)); then code=$status; kill -KILL "${tasks[@]}" 2>/dev/null; fi
done
exit "$code"
"""

STAND_IN_SCONTROL = """#!/usr/bin/env bash
# A stand-in for `scontrol show hostnames a,b`.
[[ "$1 $2" == "show hostnames" ]] || exit 1
tr ',' '\\n' <<< "$3"
"""


@pytest.fixture(scope="module")
def by_deepspeed(lab: Lab) -> Path:
    lab.run("deepspeed")
    return lab.root / "deepspeed"


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a batch script of two tasks on one node, with the stand-ins on PATH."""
    for name, text in (("srun", STAND_IN_SRUN), ("scontrol", STAND_IN_SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    yield {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "DSPARSE_VENV": sys.prefix,
        "DS_ACCELERATOR": "cpu",
        "MASTER_PORT": str(find_free_port()),
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "localhost,elsewhere",
        "SLURM_NTASKS": "2",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_SUBMIT_DIR": str(CHECKOUT),
    }


def flags(lab: Lab, output: str) -> list[str]:
    """What stands behind launch/pretrain.py for a run."""
    command = lab.command(output, ranks=1)
    return command[command.index(str(CHECKOUT / "launch/pretrain.py")) + 1 :]


def finish(command: list[str], environment: dict[str, str], *, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs to the end; after a timeout the whole session is killed."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=cwd, start_new_session=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_torchrun_ends_in_the_same_bits(lab: Lab, by_deepspeed: Path) -> None:
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    command = [torchrun, "--nproc-per-node", "2", "--master-port", str(find_free_port()), "launch/pretrain.py"]
    done = finish([*command, *flags(lab, "torchrun")], {**os.environ, "OMP_NUM_THREADS": "1"}, cwd=CHECKOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_end(by_deepspeed, lab.root / "torchrun")
    assert results(lab.root / "torchrun") == results(by_deepspeed)


def test_the_slurm_script_ends_in_the_same_bits_and_goes_on(
    lab: Lab, by_deepspeed: Path, slurm: dict[str, str], tmp_path: Path
) -> None:
    """Stopped in between; the same job again goes on by itself, as a requeued one does."""
    command = [str(SCRIPT), *flags(lab, "slurm")]
    stopped = finish([*command, "--train.stop_at_step", "6"], slurm, cwd=tmp_path)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert "no checkpoint yet" in stopped.stdout
    done = finish(command, slurm | {"SLURM_TASKS_PER_NODE": "2(x1)"}, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on from" in done.stdout and "1 threads per rank" in done.stdout
    assert_same_end(by_deepspeed, lab.root / "slurm")
    assert results(lab.root / "slurm") == results(by_deepspeed)


def test_the_slurm_script_fails_as_its_ranks_do(lab: Lab, slurm: dict[str, str], tmp_path: Path) -> None:
    done = finish([str(SCRIPT), *flags(lab, "wrong"), "--train.steps", "0"], slurm, cwd=tmp_path)
    assert done.returncode == 2
    assert "Expected train.steps" in done.stderr


def test_the_slurm_script_says_what_it_misses(slurm: dict[str, str], tmp_path: Path) -> None:
    done = finish([str(SCRIPT)], slurm | {"SLURM_SUBMIT_DIR": str(tmp_path)}, cwd=tmp_path)
    assert done.returncode == 2 and "root of the checkout" in done.stderr
    done = finish([str(SCRIPT)], slurm | {"DSPARSE_VENV": str(tmp_path)}, cwd=tmp_path)
    assert done.returncode == 2 and "DSPARSE_VENV" in done.stderr


def test_slurms_notice_ends_the_job_with_a_checkpoint_and_the_next_goes_on(
    lab: Lab, by_deepspeed: Path, slurm: dict[str, str], tmp_path: Path
) -> None:
    command = [str(SCRIPT), *flags(lab, "noticed")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=slurm, cwd=tmp_path, start_new_session=True, **pipes) as job:
        try:
            while not any(row["step"] >= 2 for row in read_rows(lab.root / "noticed")):
                assert job.poll() is None, job.communicate()
                time.sleep(0.02)
            job.send_signal(signal.SIGTERM)  # the script has become the stand-in srun, which passes it to the tasks
            out, err = job.communicate(timeout=60)
        except BaseException:
            os.killpg(job.pid, signal.SIGKILL)
            raise
    assert job.returncode == 0, out + err
    done = finish(command, slurm, cwd=tmp_path)
    assert done.returncode == 0 and "going on from" in done.stdout, done.stdout + done.stderr
    assert_same_end(by_deepspeed, lab.root / "noticed")
