"""How fast text becomes tokens in a store, beside the tools that people use instead, and how much memory it takes.

    git clone https://github.com/NVIDIA/Megatron-LM build/Megatron-LM
    python benchmarks/data_prep.py --source text:FOLDER --megatron build/Megatron-LM
    python benchmarks/data_prep.py --source text:FOLDER --memory 10 100 1000

Documents are read, cleaned and deduplicated once; a vocabulary is trained on them. Then, round after round, each way
turns the same documents into the same tokens with as many processes: this project's stages (split sentences, encode,
write the store), Megatron-LM's preprocess_data.py (which splits no sentences here: its splitter needs a download),
`datasets.map` with the `tokenizers` library (as many processes; Arrow files), and, as the measure of all, that
library's `encode_batch_fast` on the split sentences with as many threads and nothing else. The start of an interpreter
is left out for all: what a run on one document takes is subtracted. All come to the same number of tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import psutil
from tokenizers import Tokenizer

from data_prep.assemble import assemble
from data_prep.encode import Encode
from data_prep.pipeline.command import opened
from data_prep.pipeline.parts import part_paths, read_part
from data_prep.pipeline.stage import Context, run_stage
from data_prep.prepare import STAGES
from data_prep.recipe import Recipe, SourceSpec
from data_prep.sentences import Sentences
from dsparse.data.manifest import Manifest
from dsparse.data.store import TokenStore

ROOT = Path(__file__).resolve().parents[1]
_MEGA = 1e6
_SHIM = """
import runpy, sys, typing
if not hasattr(typing, "override"):  # Python 3.12
    typing.override = lambda function: function
sys.argv = sys.argv[1:]
sys.path.insert(0, str(__import__("pathlib").Path(sys.argv[0]).resolve().parents[1]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
_MAP = """
import sys
from datasets import load_dataset
from tokenizers import Tokenizer
path, tokenizer, out, workers = sys.argv[1:]
tokenizer = Tokenizer.from_file(tokenizer)
tokenizer.encode_special_tokens = True
def encode(batch):
    encoded = tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)
    return {"input_ids": [one.ids for one in encoded]}
if __name__ == "__main__":
    texts = load_dataset("json", data_files=path, split="train", cache_dir=out + ".cache")
    texts.map(encode, batched=True, num_proc=int(workers), remove_columns=["text"]).save_to_disk(out)
"""


def main() -> None:
    """Prints tables in Markdown."""
    arguments = parse()
    folder = Path(tempfile.mkdtemp(prefix="dsparse_data_prep_", dir=arguments.folder))
    try:
        recipe = Recipe(
            sources=tuple(SourceSpec(source=one) for one in arguments.source),
            out=folder / "store",
            work=folder / "work",
            workers=arguments.workers,
            vocab_size=arguments.vocab_size,
            on_error="skip",
        )
        if arguments.memory:
            print(memory_table(recipe, folder, arguments.memory))
        else:
            print(speed_table(recipe, folder, arguments))
    finally:
        shutil.rmtree(folder)


def parse() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", action="append", required=True, help="as for data_prep/prepare.py")
    parser.add_argument("--megatron", type=Path, help="a checkout of Megatron-LM")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="+", metavar="MB", help="peak memory at these sizes, and no speed")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's)")
    return parser.parse_args()


def speed_table(recipe: Recipe, folder: Path, arguments: argparse.Namespace) -> str:
    """Seconds and rates of each way, and of our stages."""
    seconds: dict[str, list[float]] = {}
    with opened(recipe) as context:
        for stage in STAGES:
            timed(seconds, stage.name, lambda stage=stage: run_stage(stage, context))  # type: ignore[misc]
        timed(seconds, "assemble", lambda: assemble(context))
        manifest = Manifest.read(recipe.out)
        num_tokens = sum(counts.num_tokens for counts in manifest.splits.values())
        num_bytes = sum(counts.num_bytes for counts in manifest.splits.values())
        peers = Peers(context, folder, arguments)
        for _ in range(arguments.rounds):
            ours_again(context, seconds)
            peers.run(seconds)
    lines = [f"{platform.processor() or platform.machine()}, {cpu_model()}, {recipe.workers} processes", ""]
    lines += [f"{num_bytes / _MEGA:.1f} MB of text, {num_tokens:,} tokens, vocabulary of {manifest.vocab_size:,}", ""]
    lines += ["| way | s (median, range) | M tokens/s | MB/s | × Megatron-LM |", "|---|---|---|---|---|"]
    base = statistics.median(seconds[MEGATRON]) if MEGATRON in seconds else float("nan")
    for name in (OURS, MEGATRON, MAP, LIBRARY):
        if name in seconds:
            median = statistics.median(seconds[name])
            lines.append(
                f"| {name} | {median:.1f} ({min(seconds[name]):.1f} to {max(seconds[name]):.1f}) "
                f"| {num_tokens / median / _MEGA:.2f} | {num_bytes / median / _MEGA:.1f} | {base / median:.1f} |"
            )
    lines += ["", "| stage | s | MB/s |", "|---|---|---|"]
    for name in (*(stage.name for stage in STAGES), "assemble"):
        lines.append(f"| {name} | {seconds[name][0]:.1f} | {num_bytes / seconds[name][0] / _MEGA:.1f} |")
    whole = sum(seconds[name][0] for name in (*(stage.name for stage in STAGES), "assemble"))
    lines.append(f"| all | {whole:.1f} | {num_bytes / whole / _MEGA:.1f} |")
    return "\n".join(lines)


OURS, MEGATRON = "sentences + encode + assemble", "Megatron-LM preprocess_data.py"
MAP, LIBRARY = "datasets.map + tokenizers", "tokenizers encode_batch_fast alone"


def ours_again(context: Context, seconds: dict[str, list[float]]) -> None:
    """Splits, encodes and writes anew."""
    for name in (Sentences.name, Encode.name):
        shutil.rmtree(context.folder(name))
    shutil.rmtree(context.recipe.out)

    def run() -> None:
        run_stage(Sentences(), context)
        run_stage(Encode(), context)
        assemble(context)

    timed(seconds, OURS, run)


class Peers:
    """The other ways, on the same documents."""

    def __init__(self, context: Context, folder: Path, arguments: argparse.Namespace) -> None:
        self._folder, self._arguments = folder, arguments
        self._tokenizer = context.folder("vocabulary") / "tokenizer.json"
        self._jsonl, self._one = folder / "documents.jsonl", folder / "one.jsonl"
        with self._jsonl.open("w", encoding="utf-8") as stream:
            for text in texts_of(context.folder("deduplicate")):
                stream.write(json.dumps({"text": text}) + "\n")
        with self._jsonl.open(encoding="utf-8") as stream:
            self._one.write_text(stream.readline(), encoding="utf-8")
        self._sentences = [line for text in texts_of(context.folder("sentences")) for line in text.split("\n")]
        self._tokens = self._expected(context.recipe.out)

    def run(self, seconds: dict[str, list[float]]) -> None:
        """A round."""
        timed(seconds, LIBRARY, self._encode_alone)
        for name, run in ((MAP, self._map), (MEGATRON, self._megatron)):
            if name == MEGATRON and self._arguments.megatron is None:
                continue
            start_s, whole_s = run(self._one), run(self._jsonl)
            seconds.setdefault(name, []).append(whole_s - start_s)

    def _encode_alone(self) -> None:
        tokenizer = Tokenizer.from_file(str(self._tokenizer))
        tokenizer.encode_special_tokens = True
        num_tokens, step = 0, 1 << 14
        for begin in range(0, len(self._sentences), step):
            encoded = tokenizer.encode_batch_fast(self._sentences[begin : begin + step], add_special_tokens=False)
            num_tokens += sum(len(one) for one in encoded)
        assert num_tokens == self._tokens, (num_tokens, self._tokens)

    def _map(self, path: Path) -> float:
        out = self._folder / "mapped"
        command = [sys.executable, "-c", _MAP, path, self._tokenizer, out, self._arguments.workers]
        t_s = run_command(command, TOKENIZERS_PARALLELISM="false", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
        shutil.rmtree(out)
        shutil.rmtree(f"{out}.cache")
        return t_s

    def _megatron(self, path: Path) -> float:
        from transformers import PreTrainedTokenizerFast

        model = self._folder / "tokenizer"
        if not model.exists():
            names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
            PreTrainedTokenizerFast(tokenizer_file=str(self._tokenizer), **names).save_pretrained(model)
        command = [sys.executable, "-c", _SHIM, self._arguments.megatron / "tools" / "preprocess_data.py"]
        command += ["--input", path, "--output-prefix", self._folder / "megatron", "--workers", self._arguments.workers]
        command += ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", model]
        command += ["--tokenizer-hf-no-include-special-tokens"]
        t_s = run_command(command)
        if path == self._jsonl:
            found = TokenStore(self._folder / "megatron_text_document").num_tokens
            assert abs(found / self._tokens - 1) < 1e-3, (found, self._tokens)
        return t_s

    def _expected(self, store: Path) -> int:
        return sum(counts.num_tokens for counts in Manifest.read(store).splits.values())


def texts_of(folder: Path) -> Iterator[str]:
    """The texts of a stage's parts."""
    for path in part_paths(folder):
        yield from read_part(path).values()


def timed(seconds: dict[str, list[float]], name: str, run: Callable[[], object]) -> None:
    """Adds how long a call takes."""
    t0_s = time.monotonic()
    run()
    seconds.setdefault(name, []).append(time.monotonic() - t0_s)


def run_command(command: list[object], **environment: str) -> float:
    """Seconds of a process; its output is shown if it fails."""
    t0_s = time.monotonic()
    done = subprocess.run(
        [str(word) for word in command], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-4000:])
    return time.monotonic() - t0_s


def memory_table(recipe: Recipe, folder: Path, sizes_mb: list[int]) -> str:
    """Peak memory of the whole preparation at several sizes of input."""
    with opened(recipe) as context:
        for stage in STAGES[:3]:
            run_stage(stage, context)
        documents = list(texts_of(context.folder("deduplicate")))
    lines = ["| input | peak memory, all processes | s | MB/s | store |", "|---|---|---|---|---|"]
    for size_mb in sizes_mb:
        path = folder / "input.jsonl"
        write_varied(documents, path, size_mb * 1_000_000)
        out = folder / "varied"
        command = [sys.executable, str(ROOT / "data_prep/prepare.py"), "--source", f"jsonl:{path}", "--out", str(out)]
        command += ["--workers", str(recipe.workers), "--vocab-size", str(recipe.vocab_size)]
        t0_s = time.monotonic()
        peak_bytes = peak_memory(command)
        t_s = time.monotonic() - t0_s
        store_bytes = sum(one.stat().st_size for one in out.iterdir())
        lines.append(
            f"| {size_mb:,} MB | {peak_bytes / _MEGA:.0f} MB | {t_s:.0f} | {size_mb / t_s:.1f} "
            f"| {store_bytes / _MEGA:.0f} MB |"
        )
        for made in (out, out.with_name("varied.work")):
            shutil.rmtree(made)
    return "\n".join(lines)


def write_varied(documents: list[str], path: Path, num_bytes: int) -> None:
    """Documents as JSON lines, repeated with every third word or so exchanged, until there are enough bytes."""
    words = np.array(sorted({word for text in documents[:500] for word in text.split(" ")}), object)
    generator = np.random.default_rng(0)
    written = turn = 0
    with path.open("w", encoding="utf-8") as stream:
        while written < num_bytes:
            for text in documents:
                if turn:
                    own = np.array(text.split(" "), object)
                    is_other = generator.random(len(own)) < 0.3
                    own[is_other] = words[generator.integers(len(words), size=int(is_other.sum()))]
                    text = " ".join(own)
                written += stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                if written >= num_bytes:
                    break
            turn += 1


def peak_memory(command: list[str]) -> int:
    """Most memory that a process and its children held at once, pages that they share counted once; bytes."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak_bytes = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak_bytes
        root = psutil.Process(process.pid)
        while not done.wait(0.1):
            total = 0
            try:
                for one in [root, *root.children(recursive=True)]:
                    total += one.memory_full_info().pss
            except psutil.Error:
                continue
            peak_bytes = max(peak_bytes, total)

    thread = threading.Thread(target=watch)
    thread.start()
    code = process.wait()
    done.set()
    thread.join()
    if code:
        sys.exit(f"failed with {code}: {' '.join(command)}")
    return peak_bytes


def cpu_model() -> str:
    """As the system names it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"


if __name__ == "__main__":
    main()
