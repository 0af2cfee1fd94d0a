"""What a model weighs in training, dense against packed: `python benchmarks/memory.py --size base --blocks 16 1`.

Each is trained for two steps in a process of its own: bytes of parameters, gradients and moments, the encoder's sparse
weights apart from the rest; of the orders that kernels walk; of what the forward pass keeps for the backward; and the
most memory that the process ever held. `--engine` trains through `dsparse.initialize` under ZeRO 1 instead, and counts
what DeepSpeed sends in a step and what a checkpoint takes.

The goal: parameters, gradients and moments of the sparse weights take their density and at most 0.03 more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
from torch import Tensor, nn

from benchmarks.training import (
    SEQ_LENGTH,
    BareRun,
    EngineRun,
    add_arguments,
    build,
    make_engine,
    pack_encoder,
    random_batch,
    verdict,
)
from dsparse.engine.world import init_world, set_deepspeed_log_level
from dsparse.models.bert import ENCODER_MODULES
from dsparse.models.selection import select_weights
from dsparse.train.host import tune_host

MARGIN = 0.03
"""Of the dense bytes, what may be there besides the density."""
_WEIGHTS = ("parameters of sparse weights", "gradients of sparse weights", "moments of sparse weights")
_COMMUNICATED = ("all_reduce", "reduce_scatter", "reduce_scatter_tensor", "reduce")


def main() -> None:
    """Starts a process for each and prints tables in Markdown; or is one of these processes."""
    arguments = parse()
    if arguments.only is not None:
        print(json.dumps(weigh(arguments, arguments.only)))
        return
    names = ["dense", *(f"packed {block}" for block in arguments.blocks)]
    found = {name: in_own_process(name) for name in names}
    print(f"BERT-{arguments.size}, {arguments.batch} x {SEQ_LENGTH} tokens, fp32, sparsity {arguments.sparsity:g}\n")
    print(table(found, arguments.sparsity))
    if arguments.json is not None:
        figures = {"size": arguments.size, "batch": arguments.batch, "sparsity": arguments.sparsity, "bytes": found}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, size="base", batch=16, steps=2)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--blocks", type=int, nargs="+", default=[16, 1])
    parser.add_argument("--engine", action="store_true", help="through dsparse.initialize, ZeRO 1, one rank")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    return parser.parse_args()


def in_own_process(name: str) -> dict[str, int]:
    """Bytes by what they are for, from a process with the same flags."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def weigh(arguments: argparse.Namespace, name: str) -> dict[str, int]:
    """Bytes by what they are for; `name` is "dense" or "packed" and a block."""
    tune_host(1)
    block = None if name == "dense" else int(name.split()[1])
    found = weigh_engine(arguments, block) if arguments.engine else weigh_bare(arguments, block)
    return {**found, "peak of the process": peak_bytes()}


def weigh_bare(arguments: argparse.Namespace, block: int | None) -> dict[str, int]:
    """Of plain torch around the model."""
    model = build(arguments.size)
    sparse = set(map(id, select_weights(model, modules=ENCODER_MODULES).values()))
    if block is not None:
        pack_encoder(model, arguments.sparsity, block, arguments.kernel)
    run = BareRun(model)
    for number in range(arguments.steps):
        loss, kept = forward(run, random_batch(number, arguments.batch))
        loss.backward()
        gradients = {id(p): nbytes([p.grad]) for p in run.parameters if p.grad is not None}
        run.clip()
        run.update()
    moments = {id(p): nbytes(v for v in run.optimizer.state[p].values() if v.dim()) for p in run.parameters}
    parameters = {id(p): nbytes([p]) for p in run.parameters}
    found: dict[str, int] = {}
    for what, sizes in (("parameters", parameters), ("gradients", gradients), ("moments", moments)):
        found[f"{what} of sparse weights"] = sum(size for key, size in sizes.items() if key in sparse)
        found[f"{what} of the rest"] = sum(size for key, size in sizes.items() if key not in sparse)
    found["orders of blocks"] = orders_bytes(model)
    found["kept from forward to backward"] = kept
    return found


def orders_bytes(model: nn.Module) -> int:
    """Of what packed layers know of their patterns; a dense model has position numbers instead, not counted."""
    from dsparse.layout.packed import PackedLinear

    return sum(nbytes(layer.buffers()) for layer in model.modules() if isinstance(layer, PackedLinear))


def forward(run: BareRun, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    """The loss, and bytes that it keeps for the backward besides parameters, buffers and the batch itself."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*run.model.parameters(), *run.model.buffers())}
    own |= {tensor.untyped_storage().data_ptr() for tensor in batch.values()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no other storage takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = run.forward(batch)
    return loss, sum(storage.nbytes() for storage in kept.values())


def weigh_engine(arguments: argparse.Namespace, block: int | None) -> dict[str, int]:
    """Of a run through DeepSpeed: what it sends in a step, and what a checkpoint takes."""
    from deepspeed import comm as dist

    set_deepspeed_log_level("error")
    init_world()
    settings = None
    if block is not None:
        settings = {"method": "static", "sparsity": arguments.sparsity, "block_size": block, "layout": "packed"}
        settings["kernel"] = arguments.kernel
    engine = make_engine(arguments.size, arguments.batch, settings)
    run = EngineRun(engine)
    for number in range(arguments.steps - 1):
        run.step(random_batch(number, arguments.batch))
    sent = {"bytes": 0}
    restore = [count_calls(dist, name, sent) for name in _COMMUNICATED]
    run.step(random_batch(arguments.steps, arguments.batch))
    for module, name, function in restore:
        setattr(module, name, function)
    with tempfile.TemporaryDirectory(prefix="dsparse_memory_") as folder:
        engine.save_checkpoint(folder, tag="one")
        checkpoint = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return {"reduced in a step": sent["bytes"], "checkpoint": checkpoint}


def count_calls(module: Any, name: str, sent: dict[str, int]) -> tuple[Any, str, Any]:
    """Adds the bytes of the tensors given to a collective to `sent`; returns what puts the collective back."""
    function = getattr(module, name)

    def counted(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        sent["bytes"] += nbytes([tensor])
        return function(tensor, *args, **kwargs)

    setattr(module, name, counted)
    return module, name, function


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def peak_bytes() -> int:
    """The most memory this process has held; not `ru_maxrss`, which begins with what its parent held."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def table(found: Mapping[str, Mapping[str, int]], sparsity: float) -> str:
    """MiB and the share of dense, in Markdown."""
    dense = found["dense"]
    packed = [name for name in found if name != "dense"]
    lines = [
        f"| MiB | dense | {' | '.join(f'{name}×{name.split()[1]} | packed / dense' for name in packed)} | goal | |"
    ]
    lines.append(f"|---|---|{'---|---|' * len(packed)}---|---|")
    for what, whole in dense.items():
        cells = [f"{whole / 2**20:.1f}"]
        shares = [found[name][what] / whole if whole else 0.0 for name in packed]
        for name, share in zip(packed, shares, strict=True):
            cells.append(f"{found[name][what] / 2**20:.1f} | {f'{share:.3f}' if whole else ''}")
        goal = 1 - sparsity + MARGIN if what in _WEIGHTS else None
        lines.append(f"| {what} | {' | '.join(cells)} {verdict(max(shares), goal, at_least=False)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
