"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer, in a program without Python.

Built from the very sources, all instruction sets included: no read or write outside a buffer, no overflow of integers,
no shift or conversion that the language leaves undefined, and the right numbers.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from dsparse.kernels.cpu_build import ALL_ISAS, SOURCES, BuildError, find_compiler

HERE = Path(__file__).parent
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FLAGS = ["-std=c++17", "-O1", "-g0", "-ffp-contract=fast", "-Wno-psabi", "-fopenmp", *SANITIZERS]


def run_all(commands: Sequence[Sequence[str]]) -> None:
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in running:
        said = process.communicate()[1]
        assert process.returncode == 0, said[-3000:]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver's program, compiled with sanitizers."""
    try:
        compiler, _ = find_compiler()
    except BuildError as reason:
        pytest.skip(str(reason))
    folder = tmp_path_factory.mktemp("sanitized")
    linked_in = [f"-DDSPARSE_WITH_{isa.name.upper()}" for isa in ALL_ISAS]
    jobs = [
        [*compiler, *FLAGS, *linked_in, f"-I{SOURCES}", "-c", str(source), "-o", str(folder / f"{source.stem}.o")]
        for source in (HERE / "sanitized_driver.cpp", SOURCES / "dispatch.cpp")
    ]
    for isa in ALL_ISAS:
        defined = [
            f"-DDSPARSE_{key}={value}"
            for key, value in (("ISA", isa.name), ("WIDTH", isa.width), ("REGISTERS", isa.registers))
        ]
        for source in ("kernels", "tokens"):
            to = str(folder / f"{source}_{isa.name}.o")
            jobs.append([*compiler, *FLAGS, *isa.flags, *defined, "-c", str(SOURCES / f"{source}.cpp"), "-o", to])
    run_all(jobs)
    program = folder / "driver"
    run_all([[*compiler, *FLAGS, *(job[-1] for job in jobs), "-o", str(program)]])
    return program


@pytest.mark.slow
@pytest.mark.parametrize("seed", (1, 2))
def test_random_layers(driver: Path, seed: int) -> None:
    done = subprocess.run([driver, "60", str(seed)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "portable: right" in done.stdout
