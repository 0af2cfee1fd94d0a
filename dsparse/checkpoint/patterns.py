"""What of a sparse run must survive, in one file beside DeepSpeed's own: `dsparse_patterns.safetensors`.

It holds the pattern of every weight (block numbers in slot order: a slot is an address, so its order is part of the
value), which blocks were ever active, which were grown last, and as metadata the update count and the settings. All of
it is bit-packed, for beside packed 1×1 weights it would be a third of the checkpoint: a number takes the bits that the
number of blocks needs, ever active is a bit for each inactive block (active ones are), grown last a bit for each slot.

safetensors is data: reading it runs no code. The pattern generator has no state, its seed is a setting.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dsparse.errors import CheckpointError, UserError
from dsparse.faults import reach
from dsparse.files import FileRecord, write_hashed
from dsparse.pattern.block_pattern import BlockPattern
from dsparse.pattern.history import PatternHistory

FILE_NAME = "dsparse_patterns.safetensors"
FORMAT = 2
_MUST_MATCH = ("sparsity", "block_size", "distribution")


@dataclass(frozen=True, slots=True)
class SparseState:
    """What the file holds."""

    histories: Mapping[str, PatternHistory]
    num_updates: int
    config: Mapping[str, Any]
    """The settings it was saved with, as plain values."""


def save_state(
    folder: Path, histories: Mapping[str, PatternHistory], num_updates: int, config: Mapping[str, Any]
) -> FileRecord:
    """Writes the file into a checkpoint folder.

    Args:
        folder: exists.
        histories: pattern and past of each sparse weight, by parameter name.
        num_updates: pattern updates made.
        config: the "dynamic_sparsity" block as plain values.

    Returns:
        What the file must be.
    """
    reach("save.patterns")
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, Any] = {}
    for name, history in histories.items():
        pattern = history.pattern
        shapes[name] = {"shape": list(pattern.shape), "block": pattern.block, "num_active": pattern.num_active}
        numbers_S = pattern.block_numbers()
        inactive_N = ~pattern.block_mask().flatten()
        tensors[f"active/{name}"] = _pack_bits(_bits_of(numbers_S, _num_bits(pattern.num_blocks)))
        tensors[f"ever_active/{name}"] = _pack_bits(history.ever_active[inactive_N])
        tensors[f"last_grown/{name}"] = _pack_bits(torch.isin(numbers_S, history.last_grown))
    header = {
        "format": FORMAT,
        "num_updates": num_updates,
        "weights": shapes,
        "config": dict(config),
    }
    header["sha256"] = _checksum(header, tensors)
    content = save(tensors, metadata={"dsparse": json.dumps(header)})
    return write_hashed(folder / FILE_NAME, lambda stream: stream.write(content))


def load_state(folder: Path) -> SparseState:
    """Reads the file of a checkpoint folder.

    Raises:
        CheckpointError: the file is missing or not readable as what it should be.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise CheckpointError(
            f"Expected the patterns of a sparse run in {path}. The checkpoint has none: it was saved by a dense run, "
            "or its save was cut short. Choose another tag, or start a new run."
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["dsparse"])
            if header["format"] != FORMAT:
                raise CheckpointError(
                    f"Expected format {FORMAT} in {path}. Got {header['format']}; use the dsparse it is of."
                )
            keys = file.keys()
            tensors = {key: file.get_tensor(key) for key in keys}
            if header.pop("sha256") != _checksum(header, tensors):
                raise ValueError("its checksum is another")
            histories = {name: _read(tensors, name, **what) for name, what in header["weights"].items()}
            return SparseState(histories, int(header["num_updates"]), header["config"])
    except CheckpointError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(
            f"Expected the patterns of a sparse run in {path}. Got a damaged file ({error}); "
            "load an earlier checkpoint."
        ) from None


def require_compatible(state: SparseState, current: Mapping[str, BlockPattern], config: Mapping[str, Any]) -> list[str]:
    """Refuses a checkpoint of other weights or another density; returns the settings that changed otherwise.

    Args:
        state: of the checkpoint.
        current: the patterns of the run that wants to load it.
        config: its "dynamic_sparsity" block as plain values.

    Raises:
        UserError: naming what differs.
    """
    saved = {name: (history.pattern.shape, history.pattern.block) for name, history in state.histories.items()}
    wanted = {name: (pattern.shape, pattern.block) for name, pattern in current.items()}
    if saved != wanted:
        odd = sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))
        raise UserError(
            f"Expected a checkpoint of the same sparse weights. It differs in {len(odd)}, the first {odd[0]!r}: "
            f"checkpoint {saved.get(odd[0], 'dense')}, run {wanted.get(odd[0], 'dense')} (shape, block size)."
        )
    now = json.loads(json.dumps(dict(config)))
    changed = [key for key in now if state.config.get(key) != now[key]]
    for key in _MUST_MATCH:
        if key in changed:
            raise UserError(
                f"Expected dynamic_sparsity.{key} = {state.config.get(key)!r} as in the checkpoint. Got {now[key]!r}."
            )
    return [f"{key}: {state.config.get(key)!r} -> {now[key]!r}" for key in changed]


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Of everything in the file: one flipped bit would train on with another history, or grow other blocks."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(tensors[key].numpy().tobytes())
    return digest.hexdigest()


def _read(tensors: Mapping[str, Tensor], name: str, *, shape: list[int], block: int, num_active: int) -> PatternHistory:
    num_blocks = (shape[0] // block) * (shape[1] // block)
    num_bits = _num_bits(num_blocks)
    bits = _unpack_bits(tensors[f"active/{name}"], num_active * num_bits).view(num_active, num_bits)
    numbers_S = (bits.to(torch.int64) << torch.arange(num_bits)).sum(1)
    pattern = BlockPattern.from_block_numbers(numbers_S, (shape[0], shape[1]), block)
    ever_active_N = pattern.block_mask().flatten()
    ever_active_N[~ever_active_N] = _unpack_bits(tensors[f"ever_active/{name}"], num_blocks - num_active)
    grown_last_S = _unpack_bits(tensors[f"last_grown/{name}"], num_active)
    return PatternHistory(pattern, ever_active_N, last_grown=numbers_S[grown_last_S].sort().values)


def _num_bits(num_blocks: int) -> int:
    """That a block number takes."""
    return max(1, (num_blocks - 1).bit_length())


def _bits_of(numbers_S: Tensor, num_bits: int) -> Tensor:
    """bool [S, num_bits], lowest first."""
    return ((numbers_S[:, None] >> torch.arange(num_bits, device=numbers_S.device)) & 1).to(torch.bool)


def _pack_bits(bits: Tensor) -> Tensor:
    """uint8, eight bits of a bool tensor each."""
    return torch.from_numpy(np.packbits(bits.flatten().cpu().numpy()))


def _unpack_bits(packed: Tensor, num: int) -> Tensor:
    """bool [num], as `_pack_bits` was given. Raises ValueError for another number of bytes than that takes."""
    if packed.dtype != torch.uint8 or packed.numel() != -(-num // 8):
        raise ValueError(f"expected {-(-num // 8)} bytes, got {packed.numel()} of {packed.dtype}")
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=num).astype(bool))
