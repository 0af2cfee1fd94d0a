"""The whole way in one command: text, vocabulary, token store, sparse pre-training on two ranks, report.

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
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dsparse.errors import UserError, exit_on_user_error

CHECKOUT = Path(__file__).resolve().parents[1]
# About five minutes of training on two cores.
DEFAULT_STEPS = 1000
MIN_STEPS = 100  # the preset has 80 pattern updates
VOCAB_SIZE = 8192


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
        return
    say("1 of 2: text, vocabulary and token store")
    run(prepare_command(demo))
    resumed = (demo.output / "checkpoints" / "latest").is_file()
    say(f"2 of 2: pre-training, {'on from the last checkpoint' if resumed else 'from the beginning'}")
    run(train_command(demo))
    minutes, seconds = divmod(round(time.monotonic() - t0_s), 60)
    say(f"done in {minutes} min {seconds} s; run again to see the report, `make clean` removes what was made")


def prepare_command(demo: Demo) -> list[str]:
    """The text of the sources as a token store with a vocabulary of its own."""
    sources = [word for source in demo.sources for word in ("--source", source)]
    vocabulary = ["--vocab-size", str(demo.vocab_size)]
    return [sys.executable, script("data_prep/prepare.py"), *sources, *vocabulary, "--out", str(demo.store)]


def train_command(demo: Demo) -> list[str]:
    """BERT-Tiny at 90 % sparsity on `num_ranks()` ranks; the run's last act is its report."""
    launcher = str(Path(sys.executable).with_name("deepspeed"))
    settings = {
        "config": script("launch/presets/tiny.yaml"),
        "data.store": demo.store,
        "output": demo.output,
        "train.steps": demo.steps,
        "train.warmup_steps": demo.steps // 10,
        "train.eval_every": max(1, demo.steps // 5),
        "checkpoint.save_every": max(1, demo.steps // 8),
        "checkpoint.resume": "auto",
    }
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
