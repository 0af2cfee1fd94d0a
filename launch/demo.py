"""The whole way in one command: text, vocabulary, token store, sparse pre-training on two ranks, report, and a look at
the dense model's speed.

Each stage is an ordinary command, shown before it runs, so that the demo teaches how to do it by hand. A stage that is
done is not done again: run anew, the demo takes up the training at its last checkpoint, or shows the report of the
finished run.

    make demo
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dsparse.errors import UserError, exit_on_user_error

CHECKOUT = Path(__file__).resolve().parents[1]
# About five minutes of training on two cores.
DEFAULT_STEPS = 1000
MIN_STEPS = 100  # the preset has 80 pattern updates
VOCAB_SIZE = 8192
DENSE_STEPS = 40
LOG_EVERY = 10  # of the preset


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What to make, and where."""

    store: Path
    output: Path
    sources: list[str]
    vocab_size: int
    steps: int

    def is_finished(self) -> bool:
        """Whether the run of so many steps is done and its last checkpoint written."""
        summary = self.output / "summary.json"
        if not summary.is_file() or not (self.output / "checkpoints" / "latest").is_file():
            return False
        numbers = json.loads(summary.read_text(encoding="utf-8"))
        return bool(numbers["step"] == numbers["steps"] == self.steps)

    @property
    def dense_output(self) -> Path:
        """Where the dense model's few steps go."""
        return self.output / "dense"


def main(argv: Sequence[str] | None = None) -> None:
    """The program behind `make demo`; exits with the code of the stage that failed."""
    parser = argparse.ArgumentParser(
        prog="demo.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, default=Path("build/store"), help="token store (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="results (default: %(default)s)")
    parser.add_argument("--source", action="append", help="as for data_prep/prepare.py (default: installed-docs)")
    parser.add_argument("--vocab-size", type=int, default=VOCAB_SIZE, help="word pieces (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="optimizer steps (default: %(default)s)")
    arguments = parser.parse_args(argv)
    with exit_on_user_error():
        if arguments.steps < MIN_STEPS:
            raise UserError(f"Expected --steps of at least {MIN_STEPS}. Got {arguments.steps}.")
        run_demo(
            Demo(
                store=arguments.store,
                output=arguments.output,
                sources=arguments.source or ["installed-docs"],
                vocab_size=arguments.vocab_size,
                steps=arguments.steps,
            )
        )


def run_demo(demo: Demo) -> None:
    """Runs what is not done yet; the last stage ends with the report."""
    t0_s = time.monotonic()
    if demo.is_finished():
        say(f"{demo.output} is finished. Its report:")
        run([sys.executable, "-m", "dsparse.train.report", str(demo.output)])
        compare(demo)
        return
    say("1 of 3: text, vocabulary and token store")
    run(prepare_command(demo))
    resumed = (demo.output / "checkpoints" / "latest").is_file()
    say(f"2 of 3: pre-training, {'on from the last checkpoint' if resumed else 'from the beginning'}")
    run(train_command(demo))
    compare(demo)
    minutes, seconds = divmod(round(time.monotonic() - t0_s), 60)
    say(f"done in {minutes} min {seconds} s; run again to see the report, `make clean` removes what was made")


def prepare_command(demo: Demo) -> list[str]:
    """The text of the sources as a token store with a vocabulary of its own."""
    sources = [word for source in demo.sources for word in ("--source", source)]
    vocabulary = ["--vocab-size", str(demo.vocab_size)]
    return [sys.executable, script("data_prep/prepare.py"), *sources, *vocabulary, "--out", str(demo.store)]


def train_command(demo: Demo) -> list[str]:
    """BERT-Tiny at 90 % sparsity on `num_ranks()` ranks; the run's last act is its report."""
    return pretrain_command(
        {
            "config": script("launch/presets/tiny.yaml"),
            "data.store": demo.store,
            "output": demo.output,
            "train.steps": demo.steps,
            "train.warmup_steps": demo.steps // 10,
            "train.eval_every": max(1, demo.steps // 5),
            "checkpoint.save_every": max(1, demo.steps // 8),
            "checkpoint.resume": "auto",
        }
    )


def dense_command(demo: Demo) -> list[str]:
    """The same model, batches and ranks without sparsity, for a few steps; made anew each time."""
    demo.dense_output.mkdir(exist_ok=True)
    shutil.rmtree(demo.dense_output / "run", ignore_errors=True)
    config = json.loads((CHECKOUT / "ds_configs/zero1.json").read_text(encoding="utf-8"))
    del config["dynamic_sparsity"]
    path = demo.dense_output / "zero1.json"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return pretrain_command(
        {
            "config": script("launch/presets/tiny.yaml"),
            "deepspeed_config": path,
            "data.store": demo.store,
            "output": demo.dense_output / "run",
            "train.steps": DENSE_STEPS,
            "train.learning_rate": 7.5e-4,
            "train.warmup_steps": LOG_EVERY,
            "train.eval_samples": 32,
            "train.eval_every": 0,
        }
    )


def compare(demo: Demo) -> None:
    """Says how long a step of each model takes, by the medians of their rows of metrics."""
    if not (demo.dense_output / "run" / "summary.json").is_file():
        say(f"3 of 3: the dense model for {DENSE_STEPS} steps, for its speed")
        run(dense_command(demo))
    packed_s, dense_s = step_seconds(demo.output), step_seconds(demo.dense_output / "run")
    say(
        f"time per step: packed {packed_s:.3f} s, dense {dense_s:.3f} s ({dense_s / packed_s:.2f}x); little of a "
        "BERT-Tiny is in its encoder, docs/performance.md has the larger ones"
    )


def step_seconds(output: Path) -> float:
    """Median seconds per optimizer step of a run; its first row, which has the start in it, left out."""
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    speeds = [row["tokens_per_s"] for row in rows if "tokens_per_s" in row][1:]
    tokens = {row["step"]: row["num_tokens"] for row in rows if "num_tokens" in row}
    last = max(tokens)
    return tokens[last] / last / statistics.median(speeds)


def pretrain_command(settings: Mapping[str, object]) -> list[str]:
    """The launcher's command line for settings of pretrain.py."""
    launcher = str(Path(sys.executable).with_name("deepspeed"))
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    ranks = ["--num_gpus", str(num_ranks()), "--master_port", str(free_port())]
    return [launcher, "--quiet", *ranks, script("launch/pretrain.py"), *flags]


def script(path: str) -> str:
    """A file of the checkout as one would type it from here."""
    return os.path.relpath(CHECKOUT / path)


def num_ranks() -> int:
    """Two, on GPUs where there are two, else on the CPU's cores; one where there is a single GPU."""
    import torch

    return 1 if torch.cuda.device_count() == 1 else 2


def free_port() -> int:
    """A TCP port that nobody listens on, so that two demos on one machine do not meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(command: list[str]) -> None:
    """Shows a command as one would type it and runs it; exits with its code if that is not 0."""
    shown = [Path(command[0]).name, *command[1:]]
    say(f"$ {shlex.join(shown)}")
    with subprocess.Popen(command, env=environment()) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # which the command got as well: it ends by itself, and its ranks with it
            code = process.wait() or 130
    if code != 0:
        say("stopped; the same command goes on from the last checkpoint or finished stage")
        sys.exit(code if code > 0 else 1)


def environment() -> dict[str, str]:
    """This process's environment, with the commands of its Python found first, as in an activated environment.

    What DeepSpeed compiles is kept in that environment too, as the Makefile has it.
    """
    commands = str(Path(sys.executable).parent)
    return (
        {"TORCH_EXTENSIONS_DIR": str(Path(sys.prefix) / "torch_extensions")}
        | os.environ
        | {"PATH": os.pathsep.join([commands, os.environ.get("PATH", os.defpath)])}
    )


def say(text: str) -> None:
    """A line of the demo's own, told apart from what the stages print."""
    print(f"[demo] {text}", flush=True)


if __name__ == "__main__":
    main()
