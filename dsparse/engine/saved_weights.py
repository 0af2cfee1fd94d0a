"""The weights of a checkpoint, whole and one at a time, from whatever files DeepSpeed has cut them into.

| saved by            | a weight's pieces                                      | order of the optimizer's state       |
|---------------------|--------------------------------------------------------|--------------------------------------|
| stage 0, fp32       | `module[name]`                                         | parameters in the optimizer's order  |
| stage 0, bf16, fp16 | `optimizer.fp32_groups`, or part of `fp32_groups_flat` | masters in that order                |
| stages 1 and 2      | of each rank, where `param_slice_mappings` says        | one flat tensor per parameter group  |
| stage 3             | of each rank, equal shards in order, the last padded   | one flat tensor per sub-group        |
| `convert`           | a file per weight and state, DeepSpeed's universal form | no order: a file each                |

Files are mapped, not read: what is held in memory is the weight that is being asked for. All of it was seen to hold in
the DeepSpeed releases named in `compatibility`.

Shape legend: N elements of a whole weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsparse.checkpoint.manifest import Manifest
from dsparse.engine.checkpoint_files import read_data
from dsparse.engine.compatibility import MOMENTS
from dsparse.engine.fragments import SavedWeight
from dsparse.errors import CheckpointError

UNIVERSAL = "universal"
"""What a manifest says of a checkpoint that belongs to no number of ranks and no ZeRO stage."""
WEIGHTS_FOLDER = "zero"
_MASTER = "fp32"


@dataclass(frozen=True, slots=True)
class _Piece:
    """Part of a weight in a file of one rank."""

    master: Tensor
    state: Mapping[str, Any]
    """Of the optimizer, for all of `master`."""
    start: int
    num: int

    def of(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(-1)[self.start : self.start + self.num]


class SavedWeights:
    """Reads the weights of one checkpoint, which has been found whole."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Opens the files.

        Args:
            folder: of the checkpoint.
            manifest: of it.

        Raises:
            CheckpointError: files of some ranks are not there, or hold what we do not know.
        """
        self._folder = folder
        manifest.told("layout", "versions")
        self._about = manifest.about
        self._names = sorted(manifest.files)
        self.model_file = self._model_file()
        self.model_states: dict[str, Any] = read_data(self.model_file, mmap=True)
        """DeepSpeed's own: counters, schedule, buffers, and the client's state."""
        self._pieces: dict[str, list[_Piece]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        if self._about["layout"]["kind"] != UNIVERSAL:
            try:
                self._find_pieces(int(self._about["layout"]["zero_stage"]))
            except CheckpointError:
                raise
            except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
                raise CheckpointError(
                    f"Expected files of DeepSpeed {self._about['versions']['deepspeed']} as dsparse knows them in "
                    f"{folder}. Got others ({type(error).__name__}: {error}); resume on the ranks and the ZeRO stage "
                    "it was saved with."
                ) from error

    def names(self) -> list[str]:
        """Of every trained weight, in no order that matters."""
        if self._pieces:
            return list(self._pieces)
        prefix, suffix = f"{WEIGHTS_FOLDER}/", f"/{_MASTER}.pt"
        return [n.removeprefix(prefix).removesuffix(suffix) for n in self._names if n.endswith(suffix)]

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a weight."""
        if self._pieces:
            return self._shapes[name]
        return tuple(self._state_file(name, _MASTER).shape)

    def read(self, name: str) -> SavedWeight:
        """All of a weight."""
        if not self._pieces:
            return self._read_universal(name)
        pieces = self._pieces[name]
        num = math.prod(self._shapes[name])
        moments = {
            key: torch.cat([piece.of(piece.state[key]) for piece in pieces])[:num].float()
            for key in pieces[0].state
            if key in MOMENTS
        }
        steps = {float(piece.state["step"]) for piece in pieces if "step" in piece.state}
        if len(steps) > 1:
            raise CheckpointError(
                f"Expected one optimizer step count for all of {name!r} in {self._folder}. Got {sorted(steps)}."
            )
        return SavedWeight(
            master_N=torch.cat([piece.of(piece.master) for piece in pieces])[:num].float(),
            moments_N=moments,
            step=pieces[0].state.get("step"),
        )

    def _find_pieces(self, stage: int) -> None:
        states = self.model_states
        if stage == 0:
            self._shapes = {n: tuple(states["module"][n].shape) for g in self._about["parameter_names"] for n in g}
            for name, piece in _stage_0(states, self._about["parameter_names"]):
                self._pieces.setdefault(name, []).append(piece)
            return
        if stage == 3 and states.get("frozen_param_shapes"):
            raise CheckpointError(
                f"Expected a checkpoint without frozen parameters in {self._folder}, to be resumed on other ranks or "
                "another ZeRO stage. Got some; resume it as it was saved."
            )
        shapes = states["param_shapes"]
        self._shapes = {name: tuple(shape) for group in shapes for name, shape in group.items()}
        world_size = int(self._about["layout"]["world_size"])
        for rank in range(world_size):
            optimizer = read_data(self._rank_file(rank), mmap=True)["optimizer_state_dict"]
            found = _stage_3(optimizer, shapes, world_size) if stage == 3 else _stages_1_and_2(optimizer)
            for name, piece in found:
                self._pieces.setdefault(name, []).append(piece)

    def _model_file(self) -> Path:
        return self._one(lambda name: name.endswith("mp_rank_00_model_states.pt") and "pp_rank_" not in name) or (
            self._require(lambda name: "zero_pp_rank_0_mp_rank_00_model_states" in name, "model states")
        )

    def _rank_file(self, rank: int) -> Path:
        return self._require(
            lambda name: name.endswith(f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"),
            f"the optimizer state of rank {rank}",
        )

    def _require(self, fits: Any, what: str) -> Path:
        found = self._one(fits)
        if found is None or not found.is_file():
            raise CheckpointError(
                f"Expected the files of all ranks in {self._folder}. Got none with {what}: where each node has its own "
                "storage, bring the files of all nodes together in one folder first."
            )
        return found

    def _one(self, fits: Any) -> Path | None:
        return next((self._folder / name for name in self._names if fits(name)), None)

    def _read_universal(self, name: str) -> SavedWeight:
        prefix = f"{WEIGHTS_FOLDER}/{name}/"
        keys = [n.removeprefix(prefix).removesuffix(".pt") for n in self._names if n.startswith(prefix)]
        step = self._state_file(name, "step") if "step" in keys else None
        return SavedWeight(
            master_N=self._state_file(name, _MASTER).reshape(-1),
            moments_N={key: self._state_file(name, key).reshape(-1) for key in keys if key in MOMENTS},
            step=step,
        )

    def _state_file(self, name: str, key: str) -> Any:
        content = read_data(self._folder / WEIGHTS_FOLDER / name / f"{key}.pt", mmap=True)
        return content["param"] if isinstance(content, dict) else content


def _stage_0(states: Mapping[str, Any], names: Sequence[Sequence[str]]) -> Iterator[tuple[str, _Piece]]:
    optimizer = states["optimizer"]
    inner = optimizer.get("optimizer_state_dict", optimizer)["state"]
    if "fp32_groups_flat" in optimizer:
        for index, group in enumerate(names):
            start = 0
            for name in group:
                num = states["module"][name].numel()
                yield name, _Piece(optimizer["fp32_groups_flat"][index], inner.get(index, {}), start, num)
                start += num
        return
    groups = optimizer.get("fp32_groups") or [[states["module"][name] for name in group] for group in names]
    masters = [master for group in groups for master in group]
    for index, name in enumerate(name for group in names for name in group):
        yield name, _Piece(masters[index], inner.get(index, {}), 0, masters[index].numel())


def _stages_1_and_2(optimizer: Mapping[str, Any]) -> Iterator[tuple[str, _Piece]]:
    inner = optimizer["base_optimizer_state"]["state"]
    flat = optimizer["single_partition_of_fp32_groups"]
    for index, addresses in enumerate(optimizer["param_slice_mappings"]):
        for name, address in addresses.items():
            yield name, _Piece(flat[index], inner.get(index, {}), address.start, address.numel)


def _stage_3(
    optimizer: Mapping[str, Any], shapes: Sequence[Mapping[str, Any]], world_size: int
) -> Iterator[tuple[str, _Piece]]:
    inner = optimizer["optimizer_state_dict"]["state"]
    for index, group in enumerate(shapes):
        start = 0
        for name, shape in group.items():
            num = math.ceil(math.prod(shape) / world_size)
            yield name, _Piece(optimizer["fp32_flat_groups"][index], inner.get(index, {}), start, num)
            start += num
