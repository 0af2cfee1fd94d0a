#!/usr/bin/env bash
# Makes .venv with everything the project needs; says nothing and returns at once when nothing changed.
#
# The stamp in .venv is a checksum of what decides its content, so a fresh checkout of the same files stays quick and a
# changed requirement is noticed whatever the file times say. It is written last: an interrupted set-up is taken up again.
#
#   PYTHON=...       the interpreter to build from (default: python3.11, else python3)
#   TORCH_INDEX=...  a package index to take PyTorch from, instead of the choice made below
set -euo pipefail
cd "$(dirname "$0")/.."

torch_version=2.13.0
venv=$PWD/.venv
stamp=$venv/.setup-stamp

fail() { echo "error: $*" >&2; exit 1; }

version_of() { "$1" --version 2>&1 | head -n 1; }

usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Every python on PATH but our own: `make` puts .venv first, and an environment is not made from itself.
find_python() {
  local candidate
  if [[ -n "${PYTHON:-}" ]]; then
    usable "$PYTHON" || fail "Expected PYTHON to name Python 3.11 or newer. Got '$PYTHON' ($(version_of "$PYTHON"))."
    command -v "$PYTHON"; return
  fi
  for candidate in $(type -ap python3.11 python3 python); do
    if [[ "$candidate" != "$venv"/* ]] && usable "$candidate"; then echo "$candidate"; return; fi
  done
  fail "Expected Python 3.11 or newer on PATH. Install it, or run: make setup PYTHON=/path/to/python3.11"
}

# DeepSpeed compiles a small communication op at first use, against the headers of this Python.
check_compiler() {
  local compiler="${CXX:-c++}" headers
  command -v "${compiler%% *}" >/dev/null 2>&1 ||
    fail "Expected a C++ compiler. Found no '$compiler' on PATH. Install one (Debian, Ubuntu: apt-get install g++), or set CXX."
  headers="$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')"
  [[ -f "$headers/Python.h" ]] ||
    fail "Expected Python's C headers at $headers/Python.h. Install them (Debian, Ubuntu: apt-get install python3-dev)."
}

# An environment that was moved or copied has the old place in its commands.
in_place() { usable "$venv/bin/python" && grep -qsF "$venv/bin/" "$venv/bin/pip"; }

make_venv() {
  if in_place && [[ -z "${PYTHON:-}" || "$(version_of "$venv/bin/python")" == "$(version_of "$PYTHON")" ]]; then return; fi
  local python
  python="$(find_python)"
  check_compiler "$python"
  echo "setup: making .venv with $(version_of "$python"), one to three minutes in all"
  "$python" -m venv --clear "$venv" ||
    fail "Could not make .venv with '$python -m venv' (Debian, Ubuntu: apt-get install python3-venv)."
}

pip_install() { "$venv/bin/python" -m pip install -qq --disable-pip-version-check "$@"; }

# Plain `pip install torch` on Linux brings several GB of CUDA, which a machine without a GPU has no use for. The CPU build
# is a version of its own, `+cpu`: asked for from pip as this machine has it set up (a mirror or a folder of wheels may
# have it), then from PyTorch's own index. Where neither has one (macOS: the ordinary build is the CPU build), plain.
install_torch() {
  if [[ -n "${TORCH_INDEX:-}" ]]; then
    pip_install "torch==$torch_version" --index-url "$TORCH_INDEX"
  elif nvidia-smi -L >/dev/null 2>&1; then
    pip_install "torch==$torch_version"
  else
    pip_install "torch==$torch_version+cpu" 2>/dev/null ||
      pip_install "torch==$torch_version+cpu" --timeout 15 --retries 1 \
        --extra-index-url https://download.pytorch.org/whl/cpu 2>/dev/null ||
      { echo "setup: found no CPU build of PyTorch $torch_version, taking the ordinary one"
        pip_install "torch==$torch_version"; }
  fi
}

# Compiled now, once: at the first launch every rank would wait for it. Without a GPU there is one such op.
compile_ops() {
  if nvidia-smi -L >/dev/null 2>&1; then return; fi
  echo "setup: compiling DeepSpeed's communication op"
  PATH="$venv/bin:$PATH" DS_ACCELERATOR=cpu TORCH_EXTENSIONS_DIR="$venv/torch_extensions" "$venv/bin/python" - >"$1" 2>&1 <<'PYTHON' ||
from dsparse.engine.builds import await_builds
await_builds(may_remove=True, slow_build_s=0)
from deepspeed.comm.torch import build_shm_op
build_shm_op()
PYTHON
    { tail -n 20 "$1" >&2; fail "DeepSpeed's communication op did not compile; the lines above say why."; }
}

# Packed weights are computed by these; at first use, every rank would wait for them. Where they do not compile, training
# falls back to torch, slowly, so that is a warning.
compile_kernels() {
  echo "setup: compiling the CPU kernels"
  "$venv/bin/python" -m dsparse.kernels.cpu_build >"$1" 2>&1 ||
    { tail -n 5 "$1" >&2; echo "setup: warning: the CPU kernels did not compile; packed layers will be slow" >&2; }
}

key() { { cat pyproject.toml constraints.txt tools/setup.sh; echo "$venv ${TORCH_INDEX:-}"; version_of "$1"; } | cksum; }

if [[ -f "$stamp" ]] && in_place && [[ "$(cat "$stamp")" == "$(key "${PYTHON:-$venv/bin/python}")" ]]
then exit 0; fi

started=$SECONDS
rm -f "$stamp"
make_venv
pip_install --upgrade pip setuptools wheel
echo "setup: PyTorch $torch_version"
install_torch
echo "setup: DeepSpeed, transformers and the rest, at the versions of constraints.txt"
pip_install --editable '.[test]' --constraint constraints.txt
compile_ops "$venv/compile_ops.log"
compile_kernels "$venv/compile_kernels.log"
key "$venv/bin/python" > "$stamp"
echo "setup: done in $((SECONDS - started)) s"
