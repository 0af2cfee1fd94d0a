"""What ranks must agree on: scores, reduced so that partitions do not matter; patterns, compared by digest.

Nothing is broadcast. Each rank computes the new pattern for itself, and a few bytes prove that all arrived at the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from deepspeed import comm as dist
from torch import Tensor

from dsparse.errors import PatternDisagreementError
from dsparse.methods.scores import Reduction


@dataclass(frozen=True, slots=True)
class WeightWitness:
    """What a rank says about its pattern of one weight."""

    digest: int
    """Digest of the pattern as it is in memory now."""
    recorded: int
    """Digest taken when the pattern was set."""
    mask_matches: bool
    """Whether the mask in force is the pattern's."""

    def as_int64(self) -> tuple[int, int, int]:
        """Three int64 values for the wire."""
        return _to_int64(self.digest), _to_int64(self.recorded), int(self.mask_matches)


class Agreement:
    """Collectives over the data-parallel ranks."""

    def __init__(self, group: object, device: torch.device) -> None:
        self._group = group
        self._device = device
        self.rank: int = dist.get_rank(group)
        self.num_ranks: int = dist.get_world_size(group)

    def reduce_scores(self, scores_S: Tensor, how: Reduction) -> Tensor:
        """Combines partial int64 scores in place and returns them; the result is the same for any partition."""
        op = dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX
        dist.all_reduce(scores_S, op=op, group=self._group)
        return scores_S

    def any_rank(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag, whether any rank raised it."""
        raised = torch.tensor(flags, dtype=torch.int32, device=self._device)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX, group=self._group)
        return [bool(one) for one in raised.tolist()]

    def require_same_patterns(self, witnesses: Mapping[str, WeightWitness], when: str) -> None:
        """Raises on every rank if any pattern differs between ranks, changed in memory, or is not the one in force.

        Args:
            witnesses: by weight name, in the same order on every rank.
            when: for the message, "before update 3".
        """
        summary = _to_int64(hash_sum(one.digest for one in witnesses.values()))
        is_sound = all(one.digest == one.recorded and one.mask_matches for one in witnesses.values())
        mine = torch.tensor([summary, int(is_sound)], dtype=torch.int64, device=self._device)
        theirs_W2 = self._gather(mine)
        if bool((theirs_W2[:, 0] == theirs_W2[0, 0]).all()) and bool((theirs_W2[:, 1] == 1).all()):
            return
        rows = [one.as_int64() for one in witnesses.values()]
        all_WN3 = self._gather(torch.tensor(rows, dtype=torch.int64, device=self._device))
        raise PatternDisagreementError(
            f"Patterns differ {when}: {'; '.join(_explain(list(witnesses), all_WN3))}. "
            "Training stopped on all ranks; resume from the last checkpoint."
        )

    def _gather(self, mine: Tensor) -> Tensor:
        """[...] on each rank to [W, ...] on all."""
        out = [torch.empty_like(mine) for _ in range(self.num_ranks)]
        dist.all_gather(out, mine, group=self._group)
        return torch.stack(out)


def hash_sum(digests: Iterable[int]) -> int:
    """One 64-bit digest of many, the position of each included."""
    total = 0
    for digest in digests:
        total = (total * 0x100000001B3 + digest) % (1 << 64)
    return total


def _explain(names: list[str], all_WN3: Tensor) -> list[str]:
    problems = []
    for index, name in enumerate(names):
        digests, recorded, matches = (all_WN3[:, index, part].tolist() for part in range(3))
        most_common = Counter(recorded).most_common(1)[0][0]
        for rank in range(len(digests)):
            if digests[rank] != recorded[rank]:
                problems.append(f"weight {name!r} changed in memory on rank {rank}")
            elif not matches[rank]:
                problems.append(f"weight {name!r} has a mask that is not its pattern's on rank {rank}")
            elif digests[rank] != most_common:
                problems.append(f"weight {name!r} on rank {rank} is not what most ranks have")
    return problems


def _to_int64(unsigned: int) -> int:
    return unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned
