"""A pattern: which b×b blocks of an [O, I] weight are active.

Blocks are numbered row-major over the grid of R = O/b by C = I/b blocks. A *slot* is a block's stable address: slot s
holds block (rows[s], cols[s]); an update gives a slot another block but never moves or counts slots anew, so whatever
is stored per slot stays where it is. As a set of blocks a pattern does not depend on the order of its slots.

Shape legend: O out features, I in features, R block rows, C block columns, S slots, N blocks (R·C).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dsparse.errors import UserError
from dsparse.pattern.budget import num_active_blocks
from dsparse.pattern.draw import all_block_numbers, draw_blocks, hash_blocks, stream_key
from dsparse.pattern.select import select_smallest

_UINT64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True, eq=False)
class BlockPattern:
    """Which b×b blocks of an [O, I] weight are active. A slot is a block's stable address."""

    rows: Tensor
    """[S] int32, block row of each slot."""
    cols: Tensor
    """[S] int32, block column of each slot."""
    shape: tuple[int, int]
    """(O, I), elements."""
    block: int
    """b, elements per block side."""

    @classmethod
    def random(
        cls, shape: tuple[int, int], *, block: int, density: float, seed: int = 0, name: str = ""
    ) -> BlockPattern:
        """A uniformly random pattern with max(1, round(density · N)) active blocks.

        It is a function of its arguments alone: the blocks with the smallest draws of (seed, name, update 0). Slots are
        in ascending block number.

        Raises:
            UserError: the block size does not divide the shape, or the density is outside (0, 1].
        """
        num_blocks = _num_blocks(shape, block, name)
        return cls.random_with_count(
            shape, block=block, num_active=num_active_blocks(num_blocks, density), seed=seed, name=name
        )

    @classmethod
    def random_with_count(
        cls, shape: tuple[int, int], *, block: int, num_active: int, seed: int = 0, name: str = ""
    ) -> BlockPattern:
        """A uniformly random pattern with exactly `num_active` blocks; see `random`."""
        num_blocks = _num_blocks(shape, block, name)
        numbers_N = all_block_numbers(num_blocks)
        draws_N = draw_blocks(stream_key(seed, name, 0), numbers_N)
        return cls.from_block_numbers(select_smallest(draws_N, numbers_N, num_active), shape, block)

    @classmethod
    def from_block_numbers(cls, block_numbers_S: Tensor, shape: tuple[int, int], block: int) -> BlockPattern:
        """The pattern whose slot s holds block `block_numbers_S[s]` (int64 [S], all different)."""
        num_blocks = _num_blocks(shape, block)
        in_range = (block_numbers_S >= 0) & (block_numbers_S < num_blocks)
        if not bool(in_range.all()) or block_numbers_S.unique().numel() != block_numbers_S.numel():
            raise ValueError(f"Expected different block numbers in [0, {num_blocks}). Got repeated or outside ones.")
        num_cols = shape[1] // block
        return cls(
            rows=(block_numbers_S // num_cols).to(torch.int32),
            cols=(block_numbers_S % num_cols).to(torch.int32),
            shape=(int(shape[0]), int(shape[1])),
            block=block,
        )

    def to(self, device: torch.device | str) -> BlockPattern:
        """The same pattern with its tensors on another device."""
        return BlockPattern(self.rows.to(device), self.cols.to(device), self.shape, self.block)

    def is_valid(self) -> bool:
        """Whether every slot holds a block of the grid and no two the same: false after memory corruption."""
        in_grid = (self.rows >= 0) & (self.rows < self.grid[0]) & (self.cols >= 0) & (self.cols < self.grid[1])
        return bool(in_grid.all()) and int(torch.count_nonzero(self.block_mask())) == self.num_active

    @property
    def grid(self) -> tuple[int, int]:
        """(R, C), blocks."""
        return self.shape[0] // self.block, self.shape[1] // self.block

    @property
    def num_blocks(self) -> int:
        """N = R·C, active or not."""
        return self.grid[0] * self.grid[1]

    @property
    def num_active(self) -> int:
        """S, the number of active blocks."""
        return self.rows.numel()

    @property
    def density(self) -> float:
        """Active share of the weight, 0 to 1."""
        return self.num_active / self.num_blocks

    def block_numbers(self) -> Tensor:
        """int64 [S], row-major block number of each slot."""
        if self.num_blocks > 2**31 - 1:
            return self.rows.to(torch.int64) * self.grid[1] + self.cols
        # One pass over half the bytes: a tenth of the time.
        return torch.add(self.cols, self.rows, alpha=self.grid[1]).to(torch.int64)

    def block_mask(self) -> Tensor:
        """bool [R, C], true at active blocks."""
        mask_N = torch.zeros(self.num_blocks, dtype=torch.bool, device=self.rows.device)
        mask_N[self.block_numbers()] = True
        return mask_N.view(self.grid)

    def mask(self) -> Tensor:
        """bool [O, I], true at active weights."""
        return expand_blocks(self.block_mask(), self.block)

    def digest(self, name: str = "") -> int:
        """A 64-bit digest of (name, shape, block size, set of active blocks); the order of slots does not enter.

        Each active block adds its hash, modulo 2**64, to the hash of the rest.
        """
        key = stream_key(0, f"digest {name} {self.shape} {self.block}", 0)
        return (key + int(hash_blocks(key, self.block_numbers()).sum())) & _UINT64


def expand_blocks(blocks_RC: Tensor, block: int) -> Tensor:
    """Repeats each block's value over its b×b elements: [R, C] to [O, I], same dtype."""
    if block == 1:
        return blocks_RC
    return blocks_RC.repeat_interleave(block, 0).repeat_interleave(block, 1)


def check_block_divides(shape: tuple[int, int], block: int, name: str = "") -> None:
    """Raises a UserError that names the weight and the block sizes that would divide it."""
    if block < 1 or shape[0] % block or shape[1] % block:
        dividing = [b for b in (1, 2, 4, 8, 16, 32, 64, 128) if shape[0] % b == 0 and shape[1] % b == 0]
        what = f"weight {name!r} of shape {tuple(shape)}" if name else f"shape {tuple(shape)}"
        raise UserError(
            f"Expected a block size that divides {what}. Got {block}; these would: {', '.join(map(str, dividing))}."
        )


def _num_blocks(shape: tuple[int, int], block: int, name: str = "") -> int:
    check_block_divides(shape, block, name)
    return (shape[0] // block) * (shape[1] // block)
