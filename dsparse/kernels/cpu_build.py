"""Compiles the CPU kernels with the system's C++ compiler, once, into a cache folder.

`python -m dsparse.kernels.cpu_build` does it now and prints where the library lies. A library that was built beside the
package from these very sources (`_cpu_<hash>.so`) is taken before any other.

The library is linked without OpenMP's own: its symbols are found in the one that torch has loaded. Two in one process
are two pools of threads that wait for work by spinning, each on the other's cores.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

try:
    import fcntl
except ImportError:  # Windows, for which there is no build; the reason is given by `find_compiler`.
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parent
SOURCES = PACKAGE / "csrc"
CACHE_VARIABLE = "DSPARSE_CACHE_DIR"
_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
]
_SECONDS_AT_MOST = 600


class BuildError(RuntimeError):
    """There are no CPU kernels, and the message says why: no compiler, or what it complained of."""


class Isa(NamedTuple):
    """How the kernels are compiled for one instruction set."""

    name: str
    flags: tuple[str, ...]
    width: int
    """Floats in a vector."""
    registers: int
    """Vector registers."""


_X86 = platform.machine().lower() in ("x86_64", "amd64")
_AVX2_FLAGS = ("-mavx2", "-mfma")
_AVX512_FLAGS = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512")
PORTABLE = Isa("portable", (), width=4, registers=16 if _X86 else 32)
AVX2 = Isa("avx2", _AVX2_FLAGS, width=8, registers=16)
AVX512 = Isa("avx512", (*_AVX2_FLAGS, *_AVX512_FLAGS), width=16, registers=32)
# For tests only: the code of AVX-512, its vectors taken apart by the compiler, on machines that have no AVX-512.
AVX512_LOWERED = Isa("avx512_lowered", _AVX2_FLAGS, width=16, registers=32)

SHIPPED_ISAS = (AVX512, AVX2, PORTABLE) if _X86 else (PORTABLE,)
ALL_ISAS = (*SHIPPED_ISAS, AVX512_LOWERED) if _X86 else SHIPPED_ISAS


def library_path(isas: Sequence[Isa] = SHIPPED_ISAS) -> Path:
    """The compiled library, built first where there is none for these sources.

    Raises:
        BuildError: there is none and it cannot be built.
    """
    shipped = PACKAGE / f"_cpu_{sources_hash(isas)}.so"
    if shipped.is_file():
        return shipped
    try:
        compiler, version = find_compiler()
        kept = cache_folder() / f"cpu_{sources_hash(isas, ' '.join(compiler), version)}.so"
    except BuildError:
        raise
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # no home, a compiler that hangs
        raise BuildError(f"{error}; {CACHE_VARIABLE} names a folder, CXX a compiler") from error
    if kept.is_file():
        return kept
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with _one_builder(kept.with_suffix(".lock")):
            if not kept.is_file():
                logger.warning("compiling CPU kernels with %s, under a minute, kept in %s", version, kept.parent)
                if not _has_openmp_of_gcc(compiler):
                    logger.warning("for one thread only: the OpenMP of %s is not the one that torch has", version)
                build(kept, isas, compiler)
    except OSError as error:
        raise BuildError(f"{kept.parent} cannot be written ({error}); {CACHE_VARIABLE} names another folder") from error
    return kept


def build(library: Path, isas: Sequence[Isa], compiler: Sequence[str]) -> None:
    """Compiles and links into a folder of its own, then moves the result to `library`, so that nobody loads a half.

    Raises:
        BuildError: the compiler failed; the message ends with what it said last.
    """
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".building-") as folder:
        jobs = _compile_commands(Path(folder), isas, compiler)
        objects = [job[-1] for job in jobs]
        _run_all(jobs)
        linked = Path(folder) / "linked.so"
        _run_all([[*compiler, "-shared", "-fPIC", *objects, "-o", str(linked)]])
        os.replace(linked, library)


def find_compiler() -> tuple[list[str], str]:
    """The C++ compiler's command ($CXX, c++, g++ or clang++) and the first line of its --version.

    Raises:
        BuildError: none is found, or the one of $CXX does not run.
    """
    if sys.platform == "win32":
        raise BuildError("the CPU kernels are not built on Windows")
    chosen = shlex.split(os.environ.get("CXX", ""))
    for command in [chosen] if chosen else [[name] for name in _COMPILERS]:
        if shutil.which(command[0]) is None:
            continue
        said = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=False)
        if said.returncode == 0 and said.stdout:
            return command, said.stdout.splitlines()[0]
    tried = f"CXX={shlex.join(chosen)}" if chosen else ", ".join(_COMPILERS)
    raise BuildError(f"no C++ compiler was found (tried {tried})")


def cache_folder() -> Path:
    """Where built libraries are kept: $DSPARSE_CACHE_DIR, else ~/.cache/dsparse."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "dsparse"


def sources_hash(isas: Sequence[Isa], *also: str) -> str:
    """Twelve hex digits that change with the sources, how they are compiled, the machine's kind, and what is `also`."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in (".cpp", ".h"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for part in (*_FLAGS, *(repr(isa) for isa in isas), platform.machine(), sys.platform, *also):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:12]


def _compile_commands(folder: Path, isas: Sequence[Isa], compiler: Sequence[str]) -> list[list[str]]:
    """One command per object, its last word the object; the kernels once per instruction set."""
    flags = [*compiler, *_FLAGS, *(("-fopenmp",) if _has_openmp_of_gcc(compiler) else ("-Wno-unknown-pragmas",))]
    linked_in = [f"-DDSPARSE_WITH_{isa.name.upper()}" for isa in isas]
    commands = [[*flags, *linked_in, "-c", str(SOURCES / "dispatch.cpp"), "-o", str(folder / "dispatch.o")]]
    for isa in isas:
        defined = (f"-DDSPARSE_ISA={isa.name}", f"-DDSPARSE_WIDTH={isa.width}", f"-DDSPARSE_REGISTERS={isa.registers}")
        for source in ("kernels", "tokens"):
            to = str(folder / f"{source}_{isa.name}.o")
            commands.append([*flags, *isa.flags, *defined, "-c", str(SOURCES / f"{source}.cpp"), "-o", to])
    return commands


def _has_openmp_of_gcc(compiler: Sequence[str]) -> bool:
    """Whether its OpenMP is the one that torch loads. Clang's calls another library: it compiles for one thread."""
    macros = subprocess.run(
        [*compiler, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True, timeout=60, check=False
    )
    return "__clang__" not in macros.stdout


def _run_all(commands: Sequence[Sequence[str]]) -> None:
    """Runs commands side by side; raises BuildError with the first failing one's last words."""
    running = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for command in commands
    ]
    failures = []
    for process in running:
        try:
            _, said = process.communicate(timeout=_SECONDS_AT_MOST)
        except subprocess.TimeoutExpired:
            process.kill()
            _, said = process.communicate()
            said += f"not done after {_SECONDS_AT_MOST} s"
        if process.returncode != 0:
            failures.append(said.strip()[-2000:] or f"exit code {process.returncode}")
    if failures:
        raise BuildError(f"{shlex.join(commands[0][:1])} failed: {failures[0]}")


@contextlib.contextmanager
def _one_builder(lock: Path) -> Iterator[None]:
    """One process builds at a time. Where the file system has no locks they build side by side, which is safe too."""
    with lock.open("w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Builds into the cache, prints the library's path, or the reason why there is none; 1 in that case."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        print(library_path())
    except BuildError as error:
        print(f"no CPU kernels: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
