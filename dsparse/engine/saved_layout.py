"""The weights of a checkpoint as another layout stores them: masked, packed and dense convert exactly.

A conversion copies values and their moments; nothing is computed. Which layout saved a weight is seen from its shape:
[O, I] or [S, b, b].

Shape legend: O out features, I in features, S slots, b block side, N elements as stored.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from dsparse.checkpoint.manifest import Manifest
from dsparse.checkpoint.patterns import load_state
from dsparse.engine.fragments import SavedWeight
from dsparse.engine.saved_weights import SavedWeights
from dsparse.errors import CheckpointError
from dsparse.layout.packed import pack, unpack
from dsparse.pattern.block_pattern import BlockPattern


class SavedInLayout(SavedWeights):
    """Reads the weights of one checkpoint, sparse ones in the layout asked for."""

    def __init__(self, folder: Path, manifest: Manifest, *, packed: bool) -> None:
        """Opens the files.

        Args:
            folder: of the checkpoint.
            manifest: of it.
            packed: whether sparse weights are wanted as [S, b, b] by slot, or else as [O, I] with zeros.

        Raises:
            CheckpointError: as `SavedWeights`, and where a weight does not fit its pattern.
        """
        super().__init__(folder, manifest)
        self._patterns = {name: history.pattern for name, history in load_state(folder).histories.items()}
        self._packed = packed

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a weight, in the layout asked for."""
        if name not in self._patterns:
            return super().shape(name)
        pattern = self._patterns[name]
        return packed_shape(pattern) if self._packed else pattern.shape

    def read(self, name: str) -> SavedWeight:
        """All of a weight, in the layout asked for."""
        saved = super().read(name)
        if name not in self._patterns:
            return saved
        pattern, stored = self._patterns[name], super().shape(name)
        if stored not in (pattern.shape, packed_shape(pattern)):
            raise CheckpointError(
                f"Expected {name!r} as {list(pattern.shape)} or {list(packed_shape(pattern))}, as its pattern says. "
                f"Got {list(stored)}; load an earlier checkpoint."
            )
        if stored == self.shape(name):
            return saved

        def convert(flat_N: Tensor) -> Tensor:
            tensor = flat_N.view(stored)
            if self._packed:
                return pack(tensor, pattern).flatten()
            return unpack(tensor, pattern.rows, pattern.cols, pattern.shape).flatten()

        moments = {key: convert(moment_N) for key, moment_N in saved.moments_N.items()}
        return SavedWeight(master_N=convert(saved.master_N), moments_N=moments, step=saved.step)


def packed_shape(pattern: BlockPattern) -> tuple[int, int, int]:
    """(S, b, b), as the packed layout stores a weight."""
    return pattern.num_active, pattern.block, pattern.block
