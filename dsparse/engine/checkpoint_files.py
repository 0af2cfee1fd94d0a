"""How DeepSpeed's own files of a checkpoint reach the disk and come back: checksummed, flushed, and as data only.

DeepSpeed pickles them. They are read with torch's restricted unpickler, which builds tensors, plain values and the few
classes named here, and runs nothing; so a checkpoint from elsewhere cannot run code. What could not be read back that
way is refused when it is saved, not when it is needed.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from dsparse.errors import CheckpointError, UserError
from dsparse.faults import reach
from dsparse.files import FileRecord, write_hashed

_DEEPSPEED_CLASSES = [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
"""What ZeRO's files hold beside tensors and plain values. None of them does anything when it is built."""


class CheckpointFiles(TorchCheckpointEngine):
    """DeepSpeed's writer and reader of checkpoint files, for one rank.

    Between `begin` and `finish` an error is kept, not raised: the other ranks wait in a barrier inside DeepSpeed, and
    would wait for ever. Outside (`save_16bit_model`) it is raised.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._is_saving = False
        self._records: dict[Path, FileRecord] = {}
        self._failure: Exception | None = None

    def begin(self) -> None:
        """A save begins."""
        reach("save.begin")
        self._is_saving, self._records, self._failure = True, {}, None

    def finish(self, folder: Path) -> dict[str, FileRecord]:
        """What this rank has written since `begin`, by place in the folder.

        Raises:
            UserError, OSError: why it could not.
        """
        self._is_saving = False
        if self._failure is not None:
            raise self._failure
        return {path.relative_to(folder).as_posix(): record for path, record in self._records.items()}

    def stop(self) -> None:
        """A save ends before its time."""
        self._is_saving = False

    def save(self, state_dict: Any, path: str) -> None:
        """Writes one file; DeepSpeed calls it."""
        try:
            self._records[Path(path)] = self._write(state_dict, Path(path))
        except Exception as error:
            if not self._is_saving:
                raise
            self._failure = self._failure or error

    def load(self, path: str, map_location: Any = None) -> Any:
        """Reads one file; DeepSpeed calls it."""
        return read_data(Path(path), map_location=map_location)

    def _write(self, state_dict: Any, path: Path) -> FileRecord:
        is_zip = self.zipfile_serialization
        try:
            record = write_hashed(
                path, lambda stream: torch.save(state_dict, stream, _use_new_zipfile_serialization=is_zip)
            )
        except RuntimeError as error:
            # torch's writer hides what the disk said.
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        if is_zip:
            with safe_globals(_DEEPSPEED_CLASSES):
                unsafe = get_unsafe_globals_in_checkpoint(str(path))
            if unsafe:
                names = ", ".join(sorted(unsafe))
                raise UserError(
                    f"Expected plain values and tensors in a checkpoint. Got {names} in {path.name}, "
                    "which could not be read back without running code: leave it out of client_state, or allow the "
                    "class with torch.serialization.add_safe_globals."
                )
        return record


def read_data(path: Path, *, map_location: Any = "cpu", mmap: bool = False) -> Any:
    """Reads a file that DeepSpeed has pickled, without running any code of it.

    Args:
        path: whose checksum has been compared.
        map_location: as for `torch.load`.
        mmap: tensors stay on the disk until they are read.

    Raises:
        CheckpointError: it is not readable, or holds other classes than data needs.
    """
    try:
        with safe_globals(_DEEPSPEED_CLASSES):
            return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0].strip()
        raise CheckpointError(
            f"Expected tensors and plain values in {path}. Got something that only running code could read: {reason}"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"Expected a checkpoint file of torch's in {path}. Got: {error}") from None
