"""The "dynamic_sparsity" block of the DeepSpeed JSON: its keys, what they may be, and one strict check of them all.

DeepSpeed ignores top-level keys it does not know, so nothing but this check stands between a typing error and a run
that silently is not what was asked for. It needs no process group.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from dsparse.errors import UserError
from dsparse.kernels.backend import Kernel
from dsparse.methods import METHODS
from dsparse.methods.scores import Norm
from dsparse.schedule import DropSchedule

BLOCK_KEY = "dynamic_sparsity"

MAX_BLOCK_SIZE = 256
"""Elements per block side at which block norms in fixed point still hold any healthy weight."""

Distribution = Literal["uniform", "erk"]
Layout = Literal["masked", "packed"]
LearningRateRule = Literal["none", "paper"]


_OF_UPDATES = ("updates", "drop_fraction", "drop_schedule", "score", "regrow_dropped", "verify_every")


@dataclass(frozen=True, kw_only=True, slots=True)
class SparsityConfig:
    """A checked "dynamic_sparsity" block. The defaults are the paper's reference case (arXiv 2108.06277)."""

    method: str = "set"
    """"set" (drop by magnitude, grow at random) or "static"."""
    sparsity: float = 0.9
    """Share of zeros in every sparse weight, in (0, 1)."""
    block_size: int = 16
    """Elements per block side."""
    distribution: Distribution = "uniform"
    """Density of each weight: the same for all, or Erdős–Rényi-Kernel."""
    total_steps: int | None = None
    """Applied optimizer steps T of the schedule; None takes the scheduler's `total_num_steps`."""
    updates: int = 80
    """n: the pattern changes every T/n steps, so n − 1 times."""
    drop_fraction: float = 0.5
    """pr(0), share of active blocks moved by an update at the start, in [0, 1]."""
    drop_schedule: DropSchedule = "cosine"
    """How the drop fraction falls over training."""
    score: Norm = "l1"
    """Norm of a block; the smallest are dropped."""
    regrow_dropped: bool = False
    """Whether a block dropped by an update may be grown again by that same update."""
    layout: Layout = "masked"
    """How weights hold their pattern: "masked" is dense with zeros, "packed" stores and computes active blocks only."""
    kernel: Kernel = "auto"
    """What computes packed weights: "auto" takes the device's own; "reference", "cpu", "triton" by name."""
    modules: tuple[str, ...] = ()
    """Filters for names of the weights to make sparse; none means every `nn.Linear` not tied to an embedding."""
    exclude: tuple[str, ...] = ()
    """Filters for parameter names of weights to leave dense."""
    seed: int = 42
    """Seed of initial patterns and growth, 0 <= seed < 2**63."""
    learning_rate_rule: LearningRateRule = "none"
    """"paper" multiplies the learning rate, taken as the dense optimum, by exp(1.969 s² + 0.2905 s)."""
    verify_every: int = 10
    """Updates between checks of the invariant through DeepSpeed's public calls; 0 checks the first update only."""

    @property
    def density(self) -> float:
        """1 − sparsity, free of the last bit that a binary subtraction leaves (1 − 0.9 is 0.1)."""
        return round(1 - self.sparsity, 12)

    @property
    def changes_pattern(self) -> bool:
        """Whether the method ever updates the pattern."""
        return METHODS[self.method].grow_score is not None


def parse_sparsity_block(block: Any, scheduler: Any = None) -> SparsityConfig:
    """Checks a "dynamic_sparsity" block and fills `total_steps`.

    Args:
        block: the value of the key, as read from JSON.
        scheduler: the value of the JSON's "scheduler" key, if it has one.

    Raises:
        UserError: with everything that is wrong, in one line.
    """
    if not isinstance(block, Mapping):
        raise UserError(f'Expected "{BLOCK_KEY}" to be an object of settings. Got {block!r}.')
    known = {one.name for one in fields(SparsityConfig)}
    problems = [_unknown_key(key, known) for key in block if key not in known]
    for key, (is_valid, expected) in _CHECKS.items():
        if key in block and not is_valid(block[key]):
            problems.append(f"Expected {BLOCK_KEY}.{key} to be {expected}. Got {block[key]!r}.")
    if problems:
        raise UserError(" ".join(problems))
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in block.items()}
    values["total_steps"] = _total_steps(block, scheduler)
    config = SparsityConfig(**values)
    if config.changes_pattern:
        _check_schedule(config)
    return config


def require_no_misspelt_block(ds_config: Mapping[str, Any]) -> None:
    """Raises UserError for a key that is nearly the block's: DeepSpeed would ignore it, and the run would be dense."""
    close = difflib.get_close_matches(BLOCK_KEY, map(str, ds_config), n=1, cutoff=0.8)
    if close and BLOCK_KEY not in ds_config:
        raise UserError(f"Expected {BLOCK_KEY!r}, or nothing like it for a dense run. Got the key {close[0]!r}.")


def settings_without_effect(block: Mapping[str, Any], config: SparsityConfig) -> list[str]:
    """One phrase for each group of settings that were given and change nothing, for a warning.

    Args:
        block: the "dynamic_sparsity" block as written.
        config: what `parse_sparsity_block` made of it.
    """
    found = []
    if not config.changes_pattern:
        idle = [key for key in _OF_UPDATES if key in block]
        if idle:
            found.append(f"{', '.join(idle)}: method {config.method!r} never changes a pattern")
    elif config.updates == 1:
        found.append("updates = 1: the pattern changes updates - 1 times, so never")
    elif config.drop_fraction == 0:
        found.append("drop_fraction = 0: updates move nothing")
    if config.layout != "packed" and "kernel" in block:
        found.append(f"kernel: layout {config.layout!r} is computed by torch")
    return found


def _total_steps(block: Mapping[str, Any], scheduler: Any) -> int | None:
    params = scheduler.get("params") if isinstance(scheduler, Mapping) else None
    params = params if isinstance(params, Mapping) else {}
    of_scheduler, of_block = params.get("total_num_steps"), block.get("total_steps")
    if of_scheduler is not None and of_block is not None and of_scheduler != of_block:
        raise UserError(
            f"Expected {BLOCK_KEY}.total_steps and scheduler.params.total_num_steps to agree. "
            f"Got {of_block} and {of_scheduler}; give one of them."
        )
    total_steps = of_block if of_block is not None else of_scheduler
    if total_steps is not None and not _is_int(1)(total_steps):
        raise UserError(
            f"Expected scheduler.params.total_num_steps to be an integer of at least 1. Got {total_steps!r}; or give "
            f"{BLOCK_KEY}.total_steps."
        )
    return total_steps


def _check_schedule(config: SparsityConfig) -> None:
    if config.total_steps is None:
        raise UserError(
            f"Expected the number of training steps in {BLOCK_KEY}.total_steps or scheduler.params.total_num_steps. "
            "Got neither."
        )
    if config.updates > config.total_steps:
        raise UserError(
            f"Expected no more pattern updates than steps. Got {BLOCK_KEY}.updates = {config.updates} "
            f"with {config.total_steps} steps; lower updates or train longer."
        )


def _unknown_key(key: str, known: set[str]) -> str:
    close = difflib.get_close_matches(str(key), sorted(known), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(known))}."
    return f"Unknown key {BLOCK_KEY}.{key}; {hint}"


def _is_int(low: int, high: int | None = None) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= low and (high is None or v < high)


def _is_number(test: Callable[[float], bool]) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and test(v)


def _one_of(*allowed: str) -> tuple[Callable[[Any], bool], str]:
    return (lambda v: isinstance(v, str) and v in allowed), "one of " + ", ".join(map(repr, allowed))


def _is_list_of_strings(v: Any) -> bool:
    return isinstance(v, (list, tuple)) and all(isinstance(one, str) and one for one in v)


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "method": _one_of(*METHODS),
    "sparsity": (_is_number(lambda v: 0 < round(1 - v, 12) < 1), "a number in (0, 1)"),
    "block_size": (_is_int(1, MAX_BLOCK_SIZE + 1), f"an integer from 1 to {MAX_BLOCK_SIZE}"),
    "distribution": _one_of(*get_args(Distribution)),
    "total_steps": (
        lambda v: v is None or _is_int(1)(v),
        'an integer of at least 1 ("auto" is filled in by launch/pretrain.py alone)',
    ),
    "updates": (_is_int(1), "an integer of at least 1"),
    "drop_fraction": (_is_number(lambda v: 0 <= v <= 1), "a number in [0, 1]"),
    "drop_schedule": _one_of(*get_args(DropSchedule)),
    "score": _one_of(*get_args(Norm)),
    "regrow_dropped": (lambda v: isinstance(v, bool), "true or false"),
    "layout": _one_of(*get_args(Layout)),
    "kernel": _one_of(*get_args(Kernel)),
    "modules": (_is_list_of_strings, "a list of filters for parameter names"),
    "exclude": (_is_list_of_strings, "a list of filters for parameter names"),
    "seed": (_is_int(0, 2**63), "an integer in [0, 2**63)"),
    "learning_rate_rule": _one_of(*get_args(LearningRateRule)),
    "verify_every": (_is_int(0), "an integer of at least 0"),
}
