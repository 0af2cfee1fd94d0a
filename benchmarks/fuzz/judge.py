"""Runs examples and says what became of each: trained, refused in one line, or a finding.

A run may end in two ways. It trains to its last step, saves, and everything outside its patterns is 0. Or it is
refused: exit code 2, one line that begins with "error:", no traceback, nothing written. One that began to train and
whose loss or weights went to infinity is stopped in one line too, and leaves its record. Anything else is a finding.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fuzz.check import problems_of_files
from benchmarks.fuzz.examples import ENGINE_FILE, RUN_FILE, Example
from benchmarks.fuzz.mutations import OWNED, FileKind, Spoiled

CHECKOUT = Path(__file__).resolve().parents[2]
FINDING = "finding"
_MAX_LINE = 1200
_LIMIT_S = 90.0

_KINDS = [
    ("stopped in training: not finite", r"Expected (a )?finite|NaN or infin|not finite"),
    ("refused: by DeepSpeed", r"a DeepSpeed configuration that DeepSpeed takes"),
    ("refused: not for sparse runs", r"Dynamic sparsity does not work with|an optimizer whose state dsparse knows"),
    ("refused: a file", r"Expected (YAML|JSON|a JSON|a DeepSpeed JSON|files)"),
    ("refused: the block", r"dynamic_sparsity|block_size|block size|regular expression"),
    ("refused: store, corpus or checkpoint", r"store|corpus|checkpoint"),
    ("refused: a flag or key", r"Unknown key|Unrecognized|to be (int|float|str|bool|null)|argument"),
]
_OTHER = "refused: a value or a contradiction"


@dataclass(frozen=True)
class Verdict:
    """What became of an example."""

    kind: str
    detail: str
    """The line, or what is wrong."""
    seconds: float


class Judge:
    """A fork server and a place for examples; a context manager."""

    def __init__(self, workplace: Path, store: Path) -> None:
        """Starts the server.

        Args:
            workplace: folder for the examples.
            store: token store that they read.
        """
        self._workplace, self._num_examples = workplace, 0
        (workplace / "store").symlink_to(store.resolve())
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "MPLBACKEND": "Agg"}
        environment["PYTHONPATH"] = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            environment.pop(name, None)
        self._server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fuzz.server"],
            cwd=CHECKOUT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us: the server ends when its stdin does
        )  # fmt: skip
        assert self._receive()["is_ready"]

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def judge(self, example: Example) -> Verdict:
        """Runs an example and looks at all it left."""
        self._num_examples += 1
        home = self._workplace / f"{self._num_examples}"
        folder = home / "here"
        folder.mkdir(parents=True)
        (home / "store").symlink_to(self._workplace / "store")
        (folder / "loop").symlink_to("loop")
        _put(folder / RUN_FILE, example.run)
        _put(folder / ENGINE_FILE, example.engine)
        before = _listing(folder)
        request = {"folder": str(folder), "argv": example.argv, "num_ranks": example.num_ranks, "limit_s": _LIMIT_S}
        assert self._server.stdin is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        answer = self._receive()
        kind, detail = _verdict(home, answer, _listing(folder) - before)
        shutil.rmtree(home)
        return Verdict(kind, detail, answer["seconds"])

    def _receive(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, "the fork server died"
        return json.loads(line)


def _put(path: Path, what: Spoiled) -> None:
    if what.kind is FileKind.FILE:
        path.write_bytes(what.content)
    elif what.kind is FileKind.FOLDER:
        path.mkdir()
    elif what.kind is FileKind.BROKEN_LINK:
        path.symlink_to("nowhere")


def _listing(folder: Path) -> set[str]:
    return {os.path.join(root, name) for root, folders, files in os.walk(folder) for name in folders + files}


def _verdict(home: Path, answer: dict[str, Any], written: set[str]) -> tuple[str, str]:
    codes: Sequence[int | None] = answer["codes"]
    out, err = (
        "".join((home / f"{name}.{rank}").read_bytes().decode(errors="replace") for rank in range(len(codes)))
        for name in ("out", "err")
    )
    said = f"codes {codes}, {out[-600:]}{err[-2000:]}"
    if answer["is_timed_out"]:
        return FINDING, f"hangs: not done after {_LIMIT_S:.0f} s; {said}"
    if any(Path(path).name == OWNED for path in written):
        return FINDING, f"text of a configuration was run; {said}"
    if "Traceback" in out + err or "Exception ignored" in err:
        return FINDING, f"traceback; {said}"
    if set(codes) == {0}:
        return _verdict_of_trained(home, len(codes), out, written)
    if not set(codes) <= {2, None}:
        return FINDING, f"exit code; {said}"
    return _verdict_of_refused(err, written, said)


def _verdict_of_refused(err: str, written: set[str], said: str) -> tuple[str, str]:
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    if len(lines) != 1:
        return FINDING, f"{len(lines)} lines of error; {said}"
    if len(lines[0]) > _MAX_LINE or not re.fullmatch(r"error: .{10,}", lines[0]):
        return FINDING, f"a line of {len(lines[0])} characters; {said}"
    kind = next((kind for kind, words in _KINDS if re.search(words, lines[0])), _OTHER)
    if kind == _KINDS[0][0]:
        return kind, lines[0]
    if written:
        return FINDING, f"refused, but {sorted(written)[:5]} written; {said}"
    return kind, lines[0]


def _verdict_of_trained(home: Path, num_ranks: int, out: str, written: set[str]) -> tuple[str, str]:
    if not written:
        is_text = "usage:" in out or "deepspeed_config:" in out
        return ("printed help or configuration", "") if is_text else (FINDING, f"did nothing; {out[-500:]}")
    records = [Path(path) for path in written if path.endswith("/run.json")]
    if len(records) != 1:
        return FINDING, f"{len(records)} records: {sorted(written)[:20]}"
    record = json.loads(records[0].read_text())
    train, engine = record["run"]["train"], record["deepspeed"]
    last = min(train["steps"], train["stop_at_step"])
    latest = records[0].parent / "checkpoints/latest"
    if not latest.is_file() or latest.read_text() != f"step{last}" or last < 2:
        return FINDING, f"no checkpoint of step {last}"
    is_sparse = "dynamic_sparsity" in engine
    for rank in range(num_ranks):
        seen = json.loads((home / f"checked.{rank}").read_text())
        if seen["num_steps"] != last or seen["is_sparse"] != is_sparse or (is_sparse and not seen["num_verified"]):
            return FINDING, f"rank {rank} was expected at step {last} of a run, sparse: {is_sparse}; it saw {seen}"
    if not is_sparse:
        return "trained, dense", ""
    stage = (engine.get("zero_optimization") or {}).get("stage", 0)
    problems = problems_of_files(latest.parent / latest.read_text(), int(stage))
    if problems:
        return FINDING, f"the invariant is broken: {problems}"
    return f"trained, sparse, {num_ranks} rank{'s' * (num_ranks > 1)}", ""
