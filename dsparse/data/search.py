"""Binary search in arrays on disk, for a whole batch at once and without copying what is searched.

`numpy.searchsorted` copies an array that is not aligned, and the arrays of an index file are not: their header has 34
bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def last_not_above(
    values: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    wanted_B: NDArray[np.int64],
    low_B: NDArray[np.int64],
    past_B: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The last of the places low … past − 1 whose value is at most the wanted one; `low` if even its own is larger.

    Args:
        values: gives the values at places, which do not descend between low and past.
        wanted_B: int64 of any shape.
        low_B: where to begin, int64 of the same shape.
        past_B: where to end, int64, above low_B.

    Returns:
        int64 of the same shape.
    """
    while (past_B - low_B > 1).any():
        middle_B = (low_B + past_B) // 2
        is_at_most_B = values(middle_B) <= wanted_B
        low_B = np.where(is_at_most_B, middle_B, low_B)
        past_B = np.where(is_at_most_B, past_B, np.maximum(middle_B, low_B + 1))
    return low_B
