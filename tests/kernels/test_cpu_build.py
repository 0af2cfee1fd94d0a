"""Building the CPU kernels: once, for all processes at once, again when sources change, and with a reason if not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dsparse.kernels import cpu, cpu_build

CALL = """
import torch
from dsparse.kernels import cpu
from tests.kernels.patterns import random_case
case = random_case(8, (2, 2), 5, torch.float32)
cpu.forward(case.x_TI, case.values_Sbb, case.bias_O, case.index)
print(cpu.is_available())
"""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and a compiler that only links an empty library: these tests are not of the kernels."""
    try:
        compiler, _ = cpu_build.find_compiler()
    except cpu_build.BuildError as reason:
        pytest.skip(str(reason))
    script = tmp_path / "compiler"
    script.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *--version*) echo quick 1.0;; "-dM "*) ;; *" -c "*) for to; do :; done; : > "$to";; '
        f'*) for to; do :; done; echo built >> "{tmp_path}/links"; echo "int x;" > "$to.c"; '
        f'{compiler[0]} -shared -x c "$to.c" -o "$to";; esac\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv(cpu_build.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def links(cache: Path) -> int:
    made = cache.parent / "links"
    return len(made.read_text().splitlines()) if made.exists() else 0


def test_is_built_once(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = cpu_build.library_path()
    assert first.parent == cache and first.is_file() and links(cache) == 1
    assert caplog.messages == [f"compiling CPU kernels with quick 1.0, under a minute, kept in {cache}"]
    assert cpu_build.library_path() == first and links(cache) == 1 and len(caplog.messages) == 1
    assert not list(cache.glob(".building-*"))


def test_changed_sources_are_built_anew(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = cpu_build.library_path()
    changed = tmp_path / "csrc"
    changed.mkdir()
    for source in cpu_build.SOURCES.iterdir():
        (changed / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(cpu_build, "SOURCES", changed)
    assert cpu_build.library_path() == first
    (changed / "abi.h").write_text((changed / "abi.h").read_text() + "\n")
    second = cpu_build.library_path()
    assert second != first and links(cache) == 2
    monkeypatch.setattr(cpu_build, "_FLAGS", [*cpu_build._FLAGS, "-g"])
    assert cpu_build.library_path() not in (first, second)


def test_a_shipped_library_is_taken(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpu_build, "PACKAGE", tmp_path)
    shipped = tmp_path / f"_cpu_{cpu_build.sources_hash(cpu_build.SHIPPED_ISAS)}.so"
    (tmp_path / "_cpu_000000000000.so").write_bytes(b"of other sources")
    assert cpu_build.library_path() != shipped
    shipped.write_bytes(b"of these sources")
    assert cpu_build.library_path() == shipped


def test_no_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    with pytest.raises(
        cpu_build.BuildError, match=re.escape("no C++ compiler was found (tried CXX=no-such-compiler -O3)")
    ):
        cpu_build.library_path()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(cache))
    with pytest.raises(cpu_build.BuildError, match=re.escape("no C++ compiler was found (tried c++, g++, clang++)")):
        cpu_build.library_path()
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "_loaded", lambda: cpu._load.__wrapped__(None))
        assert cpu.is_available() == (False, "no C++ compiler was found (tried c++, g++, clang++)")


def test_a_compiler_that_fails(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text(
        '#!/bin/sh\ncase "$*" in *--version*) echo broken 1.0;; *) echo "no such header" >&2; exit 1;; esac\n'
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(cpu_build.BuildError, match="broken failed: no such header"):
        cpu_build.library_path()
    assert not list(cache.glob("*.so")) and not list(cache.glob(".building-*"))


def test_a_folder_that_cannot_be_written(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cpu_build.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(cpu_build.BuildError, match=r"cannot be written .*DSPARSE_CACHE_DIR names another folder"):
        cpu_build.library_path()


def test_a_library_that_does_not_load(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpu_build, "PACKAGE", tmp_path)
    (tmp_path / f"_cpu_{cpu_build.sources_hash(cpu_build.SHIPPED_ISAS)}.so").write_bytes(b"not a library")
    with pytest.raises(cpu_build.BuildError, match="does not load"):
        cpu._load.__wrapped__(None)


def test_processes_at_once(cache: Path) -> None:
    command = [sys.executable, "-m", "dsparse.kernels.cpu_build"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)]
    said = {process.communicate()[0].strip() for process in running}
    assert all(process.returncode == 0 for process in running)
    assert len(said) == 1 and Path(said.pop()).is_file() and links(cache) == 1


def test_command_without_compiler(cache: Path) -> None:
    environment = {**os.environ, "CXX": "no-such-compiler"}
    command = [sys.executable, "-m", "dsparse.kernels.cpu_build"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "no CPU kernels: no C++ compiler was found (tried CXX=no-such-compiler)"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_openmp_in_the_process(best_isa: str) -> None:
    """Two pools of threads that wait by spinning would take the cores from each other."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{CALL}\nprint(open('/proc/self/maps').read())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"(True, '{best_isa}')")
    assert len(set(re.findall(r"\S*(?:libgomp|libomp|libiomp)\S*", said))) <= 1
