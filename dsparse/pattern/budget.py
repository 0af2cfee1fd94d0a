"""How many blocks each weight may have active: uniform, or Erdős–Rényi-Kernel (ERK).

Counts are integers that add up exactly; nothing is "about" the density.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from dsparse.errors import UserError


def num_active_blocks(num_blocks: int, density: float) -> int:
    """max(1, round(density · num_blocks)).

    Raises:
        UserError: density outside (0, 1].
    """
    if not 0 < density <= 1:
        raise UserError(f"Expected a density in (0, 1]. Got {density}.")
    return max(1, round(density * num_blocks))


def block_budget(
    shapes: Mapping[str, tuple[int, int]], *, block: int, distribution: str, density: float
) -> dict[str, int]:
    """Active blocks of each weight.

    Args:
        shapes: (O, I), elements, by weight name; `block` divides them.
        block: elements per block side.
        distribution: "uniform" or "erk".
        density: active share, in (0, 1].

    Returns:
        Active blocks by weight name.
    """
    grids = {name: (rows // block, cols // block) for name, (rows, cols) in shapes.items()}
    return (erk_budget if distribution == "erk" else uniform_budget)(grids, density)


def uniform_budget(grids: dict[str, tuple[int, int]], density: float) -> dict[str, int]:
    """The same density for every weight (the paper's choice, arXiv 2108.06277 section 2).

    Args:
        grids: (R, C), blocks, by weight name.
        density: active share, in (0, 1].

    Returns:
        Active blocks by weight name.
    """
    return {name: num_active_blocks(rows * cols, density) for name, (rows, cols) in grids.items()}


def erk_budget(grids: dict[str, tuple[int, int]], density: float) -> dict[str, int]:
    """Density of each weight proportional to (R + C) / (R · C); round(density · all blocks) active in all.

    Erdős–Rényi-Kernel, Evci et al. 2020, https://arxiv.org/abs/1911.11134, section 3.1 (1). Weights whose share would
    exceed 1 are dense, and the rest share what is left. Fractions are rounded down and the blocks left over go to the
    largest remainders, ties to the weight that comes first; each weight keeps at least one block.

    Args and Returns: as `uniform_budget`.
    """
    if not grids:
        return {}
    num_blocks = {name: rows * cols for name, (rows, cols) in grids.items()}
    total = max(num_active_blocks(sum(num_blocks.values()), density), len(grids))
    raw = {name: (rows + cols) / (rows * cols) for name, (rows, cols) in grids.items()}
    dense: set[str] = set()
    while True:
        left = total - sum(num_blocks[name] for name in dense)
        weight = sum(raw[name] * num_blocks[name] for name in grids if name not in dense)
        scale = left / weight if weight else 0.0
        over = [name for name in grids if name not in dense and scale * raw[name] > 1]
        if not over:
            break
        dense.update(over)
    exact = {
        name: float(num_blocks[name]) if name in dense else max(1.0, scale * raw[name] * num_blocks[name])
        for name in grids
    }
    counts = {name: min(num_blocks[name], math.floor(value)) for name, value in exact.items()}
    return _spend(counts, exact, num_blocks, total)


def _spend(counts: dict[str, int], exact: dict[str, float], limits: dict[str, int], total: int) -> dict[str, int]:
    """Adds or takes single blocks until the counts add up to `total`, furthest from the exact share first."""
    order = list(counts)
    while (missing := total - sum(counts.values())) != 0:
        sign = 1 if missing > 0 else -1
        movable = [n for n in order if (counts[n] < limits[n] if sign > 0 else counts[n] > 1)]
        movable.sort(key=lambda n: sign * (counts[n] - exact[n]))
        for name in movable[: abs(missing)]:
            counts[name] += sign
    return counts
