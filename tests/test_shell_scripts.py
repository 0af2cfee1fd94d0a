"""Every shell script of the repository passes shellcheck."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Shell scripts do not all end in .sh; their first line says what they are.
SCRIPTS = sorted(
    path
    for folder in (".ci", "launch", "tools")
    for path in (ROOT / folder).iterdir()
    if path.is_file()
    and path.read_bytes().splitlines()[:1] in ([b"#!/usr/bin/env bash"], [b"#!/bin/bash"], [b"#!/bin/sh"])
)


def shellcheck(path: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("shellcheck")), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_there_are_scripts() -> None:
    names = {str(path.relative_to(ROOT)) for path in SCRIPTS}
    assert names >= {".ci/run", "launch/pretrain.slurm", "tools/setup.sh", "tools/setup_hosts_test.sh"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(path: Path) -> None:
    done = shellcheck(path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert path.stat().st_mode & 0o111, f"{path} cannot be executed"


def test_a_mistake_is_found(tmp_path: Path) -> None:
    (tmp_path / "mistake").write_text("#!/bin/bash\nrm $1/*\n")
    assert "SC2086" in shellcheck(tmp_path / "mistake").stdout
