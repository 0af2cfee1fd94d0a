"""What a user can get wrong: one line, exit code 2, no traceback, nothing written. Each case is a process of its own.

Importing torch and DeepSpeed takes seconds, so one process imports them and forks a child for each case; the child runs
`launch/pretrain.py` as the interpreter would.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dsparse.train.config import CHECKOUT
from tests.data.store_fixture import make_small_store

PRESET = str(CHECKOUT / "launch/presets/tiny.yaml")
SCRIPT = str(CHECKOUT / "launch/pretrain.py")

FORK_EACH = """
import json, os, runpy, sys, traceback
import dsparse.train.pretrain, dsparse.engine.initialize, dsparse.models.bert, dsparse.data.loader
for number, argv in enumerate(json.load(open(sys.argv[1]))):
    child = os.fork()
    if child == 0:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{number}.{name}", os.O_CREAT | os.O_WRONLY), stream)
        sys.argv = argv
        code = 0
        try:
            runpy.run_path(argv[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush(); sys.stderr.flush()
        os._exit(code)
    open(f"{number}.code", "w").write(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""


@dataclass(frozen=True)
class Case:
    """What is typed, and what the line must say."""

    name: str
    words: list[str]
    flags: tuple[str, ...] = ()
    sparsity: dict[str, Any] | None = None
    """Changes to the "dynamic_sparsity" block."""
    engine: dict[str, Any] | str | None = None
    """Changes to the DeepSpeed JSON, or its whole text."""
    yaml: str | None = None
    spoil: Callable[[Path], object] | None = None
    """Done to a copy of the store."""
    output_has: str | None = None
    """Checkpoint that is there already."""


def truncate(store: Path) -> None:
    for path in store.glob("train*.bin"):
        os.truncate(path, path.stat().st_size // 2)


def swap_tokenizer(store: Path) -> None:
    path = store / "tokenizer.json"
    path.write_text(path.read_text().replace("[UNK]", "[UNX]"))


def remove_manifest(store: Path) -> None:
    (store / "manifest.json").unlink()


def alias_bomb() -> str:
    """A hundred million values in nine lines."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)])


def without_scheduler() -> str:
    """The JSON of ZeRO 1, its scheduler taken out."""
    engine = json.loads((CHECKOUT / "ds_configs/zero1.json").read_text())
    del engine["scheduler"]
    return json.dumps(engine)


def scheduler(kind: str, params: Any = ()) -> dict[str, Any]:
    return {"scheduler": {"type": kind, "params": dict(params) if params is not None else None}}


CASES = [
    Case("sparsity of one", ["dynamic_sparsity.sparsity", "(0, 1)", "1.0"], sparsity={"sparsity": 1.0}),
    Case("sparsity of zero", ["dynamic_sparsity.sparsity", "(0, 1)"], sparsity={"sparsity": 0}),
    Case(
        "block that does not divide",
        ["bert.encoder.layer.0.attention.self.query.weight", "48", "16, 32, 64"],
        sparsity={"block_size": 48},
    ),
    Case("unknown key in the block", ["dynamic_sparsity.sparsty", "'sparsity'"], sparsity={"sparsty": 0.9}),
    Case("misspelt block", ["dynamic_sparsty", "'dynamic_sparsity'"], engine={"dynamic_sparsty": {}}),
    Case("unknown key in the YAML", ["train.stepps"], yaml="train:\n  stepps: 3\n"),
    Case("unknown flag", ["--train.stepps"], flags=("--train.stepps", "3")),
    Case("YAML that is none", ["Expected YAML in", "line"], yaml="train: [\n"),
    Case("YAML that is no text", ["Expected YAML in", "run.yaml", "no UTF-8"], yaml="output: \udcff\n"),
    Case("key twice in the YAML", ["run.yaml", "'steps' again at line 3"], yaml="train:\n  steps: 4\n  steps: 5\n"),
    Case("YAML of many aliases", ["at most 10000 values"], yaml=alias_bomb()),
    Case("alias within itself", ["an alias within itself"], yaml="train: &a {steps: *a}\n"),
    Case("number without end in the YAML", ["digits"], yaml=f"train: {{steps: {'9' * 5000}}}\n"),
    Case("number in the place of keys", ["keys and values at monitor. Got -1", "log_level"], yaml="monitor: -1\n"),
    Case(
        "code in the YAML",
        ["Expected YAML in", "apply:os.system"],
        yaml="output: !!python/object/apply:os.system [ls]\n",
    ),
    Case("null where a word must be", ["Expected data.store to be str. Got null"], yaml="data: {store: null}\n"),
    Case("output that is no UTF-8", ["--output", "in UTF-8", "udcff"], flags=("--output", "\udcff")),
    Case("output with a zero byte", ["--output", "in UTF-8", "x00"], yaml='output: "a\\0b"\n'),
    Case("JSON that is none", ["engine.json", "line 1, column 2"], engine="{,}"),
    Case("JSON without end", ["engine.json", "nested too deeply"], engine="[" * 100_000),
    Case("number without end in the JSON", ["engine.json", "digits"], engine=f'{{"train_batch_size": {"9" * 5000}}}'),
    Case(
        "two values for one fact",
        ["train.global_batch_size = 32", "train_batch_size = 64", "engine.json"],
        engine={"train_batch_size": 64},
    ),
    Case("more updates than steps", ["dynamic_sparsity.updates = 80", "60 steps"], flags=("--train.steps", "60")),
    Case(
        "several at once",
        ["train.warmup_steps", "train.steps", "dynamic_sparsity.updates = 80", "train_batch_size = 64"],
        flags=("--train.steps", "30"),
        engine={"train_batch_size": 64},
    ),
    Case("filter that matches nothing", ["dynamic_sparsity.modules", "'gpt'"], sparsity={"modules": ["gpt"]}),
    Case("optimizer unknown to us", ["optimizer.type = Lion"], engine={"optimizer": {"type": "Lion", "params": {}}}),
    Case("unknown preset", ["tiny, mini", "'huge'"], flags=("--model.preset", "huge")),
    Case("missing store", ["nowhere"], flags=("--data.store", "nowhere")),
    Case("batch larger than the corpus", ["1000000", "larger corpus"], flags=("--train.global_batch_size", "1000000")),
    Case("truncated store", ["train", ".bin", "truncated"], spoil=truncate),
    Case("store of another tokenizer", ["tokenizer"], spoil=swap_tokenizer),
    Case("store without a manifest", ["manifest.json"], spoil=remove_manifest),
    Case("checkpoints in the way", ["--checkpoint.resume auto", "step24"], output_has="step24"),
    Case("checkpoint that is not there", ["step7"], flags=("--checkpoint.resume", "step7")),
    Case("store that is a file", ["a folder", "Got a file"], flags=("--data.store", SCRIPT)),
    Case("output that is a file", ["--output", "is a file"], flags=("--output", f"{SCRIPT}/run")),
    Case("warm-up shorter than DeepSpeed's", ["train.warmup_steps", "at least 2"], flags=("--train.warmup_steps", "1")),
    Case(
        "warm-up without a scheduler", ["Expected a scheduler", "train.warmup_steps = 50"], engine=without_scheduler()
    ),
    Case("scheduler of other rates", ["scheduler.type", "WarmupDecayLR", "'OneCycle'"], engine=scheduler("OneCycle")),
    Case("scheduler that is no word", ["scheduler.type", "{'a': 1}"], engine={"scheduler": {"type": {"a": 1}}}),
    Case("scheduler without an object", ["scheduler.params", "None"], engine=scheduler("WarmupLR", None)),
    Case("clipping by a word", ["gradient_clipping", "at least 0", "'1'"], engine={"gradient_clipping": "1"}),
    Case("clipping by NaN", ["gradient_clipping", "nan"], engine={"gradient_clipping": float("nan")}),
    Case("clipping by null", ["gradient_clipping", "None"], engine={"gradient_clipping": None}),
    Case("sequences without end", ["max_seq_length", "1048576"], flags=("--model.max_seq_length", "100000000")),
    Case("workers without end", ["data.num_workers from 0 to 256"], flags=("--data.num_workers", "10000")),
    Case("no steps to a print", ["steps_per_print", "at least 1", "Got 0"], engine={"steps_per_print": 0}),
    Case("no steps", ["train.steps at least 1. Got 0"], flags=("--train.steps", "0")),
    Case("negative seed", ["train.seed"], flags=("--train.seed", "-1")),
    Case("batch that is no whole number", ["global_batch_size"], flags=("--train.global_batch_size", "32.5")),
    Case(
        "half a sequence in the JSON",
        ["whole number at train_batch_size in engine.json. Got 32.5"],
        yaml="train: {global_batch_size: null}\n",
        engine={"train_batch_size": 32.5},
    ),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str, Path]]:
    """Exit code, stdout, stderr and folder of each case."""
    root = tmp_path_factory.mktemp("bad_input")
    commands = []
    for number, case in enumerate(CASES):
        folder = root / f"case{number}"
        folder.mkdir()
        commands.append(command_of(case, folder))
    (root / "commands.json").write_text(json.dumps(commands))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-c", FORK_EACH, "commands.json"], cwd=root, env=environment, check=True)
    return {
        case.name: (
            int((root / f"{number}.code").read_text()),
            (root / f"{number}.out").read_text(),
            (root / f"{number}.err").read_text(),
            root / f"case{number}",
        )
        for number, case in enumerate(CASES)
    }


def command_of(case: Case, folder: Path) -> list[str]:
    """Writes what the case needs and returns what is typed."""
    engine = json.loads((CHECKOUT / "ds_configs/zero1.json").read_text())
    if isinstance(case.engine, dict):
        engine |= case.engine
    engine["dynamic_sparsity"] |= case.sparsity or {}
    path = folder / "engine.json"
    path.write_text(case.engine if isinstance(case.engine, str) else json.dumps(engine))
    make_small_store(folder / "store")
    if case.spoil is not None:
        case.spoil(folder / "store")
    if case.output_has is not None:
        (folder / "out/checkpoints" / case.output_has).mkdir(parents=True)
        (folder / "out/checkpoints/latest").write_text(case.output_has)
    command = [SCRIPT, "--config", PRESET, "--deepspeed_config", str(path), "--train.steps", "200"]
    # Should a case be accepted after all, the test is to fail soon.
    command += ["--train.stop_at_step", "1"]
    command += ["--data.store", str(folder / "store"), "--output", str(folder / "out")]
    if case.yaml is not None:
        (folder / "run.yaml").write_text(case.yaml, encoding="utf-8", errors="surrogateescape")
        command += ["--config", str(folder / "run.yaml")]
    return [*command, *case.flags]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case: Case, answers: dict[str, tuple[int, str, str, Path]]) -> None:
    code, out, err, folder = answers[case.name]
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert [word for word in case.words if word not in err] == [], err
    assert {path.name for path in (folder / "out").rglob("*")} <= {"checkpoints", "latest", case.output_has}


def test_what_deepspeed_refuses_is_one_line_too(tmp_path: Path) -> None:
    """DeepSpeed has no fp16 on CPU; it says so itself, after the process group has started."""
    make_small_store(tmp_path / "store")
    command = [sys.executable, SCRIPT, "--config", PRESET, "--deepspeed_config", "ds_configs/zero1_fp16.json"]
    command += ["--data.store", str(tmp_path / "store"), "--output", str(tmp_path / "out")]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 2, done.stderr
    assert [line for line in done.stderr.splitlines() if "fp16" in line and line.startswith("error: ")], done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_debug_shows_where_it_came_from() -> None:
    command = [sys.executable, SCRIPT, "--debug", "--train.stepps", "3"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "DS_ACCELERATOR": "cpu"})
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "UserError" in done.stderr
