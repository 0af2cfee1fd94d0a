"""Numbers on the accelerator that the host reads later, without waiting for anything queued after them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Deferred:
    """A copy on its way to the host, begun when this is made."""

    def __init__(self, values: Tensor) -> None:
        """Starts the copy of `values`, [n] of any type."""
        self._event: Any = None
        if values.device.type == "cpu":
            self._host = values
            return
        from deepspeed.accelerator import get_accelerator

        # Only pinned memory is copied to while the host goes on.
        self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._host.copy_(values, non_blocking=True)
        self._event = get_accelerator().Event()
        self._event.record()

    def read(self) -> list[float]:
        """The values; returns when the copy is done, whatever the accelerator was given to do since."""
        if self._event is not None:
            self._event.synchronize()
        return [float(value) for value in self._host.tolist()]
