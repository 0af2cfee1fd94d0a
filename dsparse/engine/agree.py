"""What ranks must agree on: scores, reduced so that partitions do not matter; patterns, compared by digest.

Nothing is broadcast. Each rank computes the new pattern for itself, and a few bytes prove that all arrived at the same.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from deepspeed import comm as dist
from torch import Tensor

from dsparse.errors import PatternDisagreementError, SparsityError, UserError
from dsparse.methods.scores import Reduction

T = TypeVar("T")

_MAX_NAMED = 8


@dataclass(frozen=True, slots=True)
class WeightWitness:
    """What a rank says about its pattern of one weight."""

    digest: int
    """Digest of the pattern as it is in memory now."""
    recorded: int
    """Digest taken when the pattern was set."""
    is_in_force: bool
    """Whether it is what the weight's layout masks or computes with."""

    def as_int64(self) -> tuple[int, int, int]:
        """Three int64 values for the wire."""
        return _to_int64(self.digest), _to_int64(self.recorded), int(self.is_in_force)


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

    def together(self, action: Callable[[], T], what: str) -> T:
        """Does what may fail on one rank alone; if it fails on any, raises on all, so that none waits for another.

        Args:
            action: without collectives in it.
            what: for the message, "reading the patterns".

        Returns:
            What the action returned on this rank.
        """
        error: Exception | None = None
        result: Any = None
        try:
            result = action()
        except Exception as caught:
            error = caught
        failed = self._gather(torch.tensor([int(error is not None)], device=self._device))[:, 0].nonzero().flatten()
        if not len(failed):
            return result
        said = self.gather_plain(None if error is None else [isinstance(error, UserError), str(error)])
        if error is not None:
            raise error
        is_users, message = said[int(failed[0])]
        if is_users:
            raise UserError(message)
        raise SparsityError(f"Rank {_listed(failed.tolist())} failed in {what}: {message}")

    def gather_plain(self, mine: Any) -> list[Any]:
        """What each rank has to say, by rank, the same on all; plain JSON values only, so nothing is unpickled."""
        text = json.dumps(mine, sort_keys=True).encode()
        lengths_W = self._gather(torch.tensor([len(text)], dtype=torch.int64, device=self._device))[:, 0].tolist()
        padded = torch.zeros(max(lengths_W), dtype=torch.uint8, device=self._device)
        padded[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(self._device)
        return [
            json.loads(bytes(row[:length].tolist()))
            for row, length in zip(self._gather(padded), lengths_W, strict=True)
        ]

    def require_same_run(self, description: Mapping[str, Any]) -> None:
        """Raises on every rank if ranks were given different settings or models.

        Args:
            description: plain values by name; anything that decides patterns and their schedule.
        """
        text = json.dumps(description, sort_keys=True).encode()
        digest = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)
        theirs_W = self._gather(torch.tensor([digest], dtype=torch.int64, device=self._device))[:, 0]
        if bool((theirs_W == theirs_W[0]).all()):
            return
        said = self.gather_plain(description)
        keys = sorted({key for one in said for key in one})
        odd = next((key, rank) for key in keys for rank, one in enumerate(said) if one.get(key) != said[0].get(key))
        key, rank = odd
        raise PatternDisagreementError(
            f"Expected the same model and settings on every rank. Got {key} = {said[0].get(key)} on rank 0 and "
            f"{said[rank].get(key)} on rank {rank}."
        )

    def require_same_patterns(self, witnesses: Mapping[str, WeightWitness], when: str) -> None:
        """Raises on every rank if any pattern differs between ranks, changed in memory, or is not the one in force.

        Args:
            witnesses: by weight name, the same names in the same order on every rank.
            when: for the message, "before update 3".
        """
        summary = _to_int64(hash_sum(one.digest for one in witnesses.values()))
        is_sound = all(one.digest == one.recorded and one.is_in_force for one in witnesses.values())
        mine = torch.tensor([summary, int(is_sound)], dtype=torch.int64, device=self._device)
        theirs_W2 = self._gather(mine)
        if bool((theirs_W2[:, 0] == theirs_W2[0, 0]).all()) and bool((theirs_W2[:, 1] == 1).all()):
            return
        rows = [one.as_int64() for one in witnesses.values()]
        all_WN3 = self._gather(torch.tensor(rows, dtype=torch.int64, device=self._device))
        problems = _explain(list(witnesses), all_WN3)
        more = f" and {len(problems) - _MAX_NAMED} more" if len(problems) > _MAX_NAMED else ""
        raise PatternDisagreementError(
            f"Patterns differ {when}: {'; '.join(problems[:_MAX_NAMED])}{more}. "
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
        counts = Counter(recorded)
        most_common, num_ranks = counts.most_common(1)[0]
        is_majority = 2 * num_ranks > len(recorded)
        for rank in range(len(digests)):
            if digests[rank] != recorded[rank]:
                problems.append(f"weight {name!r} changed in memory on rank {rank}")
            elif not matches[rank]:
                problems.append(f"weight {name!r} computes with another pattern than its own on rank {rank}")
            elif is_majority and digests[rank] != most_common:
                problems.append(f"weight {name!r} on rank {rank} is not what most ranks have")
        if not is_majority:
            problems.append(f"weight {name!r} differs between ranks {_listed(list(range(len(digests))))}")
    return problems


def _listed(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks[:_MAX_NAMED])) + (" …" if len(ranks) > _MAX_NAMED else "")


def _to_int64(unsigned: int) -> int:
    return unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned
