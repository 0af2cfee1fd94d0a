"""Compiles the CPU kernels into the wheel where there is a compiler. Everything else about the package is in pyproject.

A wheel without them is as good: they are then compiled at first use. So nothing here makes an installation fail.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

KERNELS = Path("dsparse") / "kernels"


def load_cpu_build() -> ModuleType:
    """dsparse/kernels/cpu_build.py by its path: the package itself needs torch, which a build has not got."""
    spec = importlib.util.spec_from_file_location(
        "cpu_build", Path(__file__).resolve().parent / KERNELS / "cpu_build.py"
    )
    assert spec is not None and spec.loader is not None
    module = sys.modules["cpu_build"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_kernels(folder: Path) -> bool:
    """Compiles the kernels into `folder`; False, with the reason on stderr, where that cannot be done."""
    try:
        cpu_build = load_cpu_build()
        isas = cpu_build.SHIPPED_ISAS
        compiler, version = cpu_build.find_compiler()
        print(f"compiling CPU kernels with {version}")
        folder.mkdir(parents=True, exist_ok=True)
        cpu_build.build(folder / f"_cpu_{cpu_build.sources_hash(isas)}.so", isas, compiler)
    except Exception as error:
        print(f"the wheel has no CPU kernels, they are compiled at first use: {error}", file=sys.stderr)
        return False
    return True


class BuildWithKernels(build_py):
    """The usual step, and the kernels beside their sources. An editable installation builds them at first use."""

    def run(self) -> None:
        """Copies the package, then compiles."""
        super().run()
        if not self.editable_mode:
            build_kernels(Path(self.build_lib) / KERNELS)


class PlatformWheel(bdist_wheel):
    """A wheel for this platform and any Python if it holds compiled kernels, else one for all."""

    def get_tag(self) -> tuple[str, str, str]:
        """(python, abi, platform) of the file's name."""
        if not list((Path(self.bdist_dir) / KERNELS).glob("_cpu_*.so")):
            return super().get_tag()
        self.root_is_pure = False
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build_py": BuildWithKernels, "bdist_wheel": PlatformWheel})
