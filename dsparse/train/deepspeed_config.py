"""Joins the run with the DeepSpeed JSON: one home for each fact, and every contradiction told at once.

Steps, batch sizes and the learning rate belong to the run. Where the JSON says `"auto"` or nothing they are filled in;
where it repeats them they must agree; where the run leaves them null the JSON's number is taken. What comes out is a
run without nulls and a JSON without `"auto"`, so whoever reads either afterwards sees the same numbers.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from dsparse.errors import UserError
from dsparse.train.config import RunConfig
from dsparse.train.deepspeed_json import (
    AUTO,
    Json,
    get_at,
    misspelt_keys,
    places_that_say_auto,
    scheduler_problems,
    set_at,
    setting_problems,
    takes,
)

_Value = TypeVar("_Value")

_SHARED: dict[str, tuple[tuple[str, ...], ...]] = {
    "steps": (("scheduler", "params", "total_num_steps"), ("dynamic_sparsity", "total_steps")),
    "global_batch_size": (("train_batch_size",),),
    "micro_batch_size": (("train_micro_batch_size_per_gpu",),),
    "learning_rate": (("optimizer", "params", "lr"), ("scheduler", "params", "warmup_max_lr")),
    "warmup_steps": (("scheduler", "params", "warmup_num_steps"),),
}
"""Field of `train` to the places of the JSON that hold the same fact, the first of them the one to take it from."""

_WHOLE = ("steps", "global_batch_size", "micro_batch_size", "warmup_steps")
_MIN_WARMUP_STEPS = 2  # DeepSpeed's own least: it would take 2 for 1 without a word


@dataclass(kw_only=True, frozen=True)
class MergedRun:
    """A run that nothing is missing from."""

    run: RunConfig
    """Without nulls, but for `train.stop_at_step`; paths absolute."""
    deepspeed: Json
    """What `dsparse.initialize` gets as config."""
    gradient_accumulation_steps: int
    """Micro-batches per optimizer step on each rank."""

    @property
    def steps(self) -> int:
        """Optimizer steps over which the schedules span."""
        return _given(self.run.train.steps)

    @property
    def last_step(self) -> int:
        """The step after which this session ends."""
        stop = self.run.train.stop_at_step
        return self.steps if stop is None else min(stop, self.steps)

    @property
    def global_batch_size(self) -> int:
        """Sequences per optimizer step over all ranks."""
        return _given(self.run.train.global_batch_size)

    @property
    def micro_batch_size(self) -> int:
        """Sequences per forward pass on one rank."""
        return _given(self.run.train.micro_batch_size)

    @property
    def seq_length(self) -> int:
        """Tokens per sequence."""
        return _given(self.run.data.seq_length)

    @property
    def data_seed(self) -> int:
        """Seed of the order of samples and of the masking."""
        return _given(self.run.data.seed)

    @property
    def output(self) -> Path:
        """Folder of the results, absolute."""
        return Path(_given(self.run.output))


def _given(value: _Value | None) -> _Value:
    assert value is not None, "merge() leaves no null"
    return value


def merge(run: RunConfig, written: Json, *, json_path: Path, world_size: int) -> MergedRun:
    """Gives every fact its one value.

    Args:
        run: as typed, nulls included.
        written: the DeepSpeed JSON as read; not changed.
        json_path: where it was read, for messages.
        world_size: number of ranks, by which the accumulation is derived.

    Raises:
        UserError: one line with every contradiction, every fact that neither place gives, every impossible value.
    """
    deepspeed = copy.deepcopy(written)
    problems = misspelt_keys(deepspeed, json_path)
    if not isinstance(get_at(deepspeed, ("optimizer", "params")), dict):
        problems.append(f'Expected {json_path.name} to have "optimizer" with "type" and "params"')

    problems += scheduler_problems(deepspeed, json_path) + setting_problems(deepspeed, json_path)
    facts: Json = {}
    for name, places in _SHARED.items():
        places = tuple(place for place in places if takes(deepspeed, place))
        facts[name], found = _agree(f"train.{name}", getattr(run.train, name), deepspeed, places, json_path)
        problems += found
    accumulation, found = _accumulation(facts, deepspeed, json_path, world_size)
    problems += found

    for name, places in _SHARED.items():
        for place in places:
            if facts[name] is not None and takes(deepspeed, place):
                set_at(deepspeed, place, facts[name])
    deepspeed["gradient_accumulation_steps"] = accumulation
    full = _without_nulls(run, facts)
    deepspeed["tensorboard"], found = _tensorboard(full, deepspeed, json_path)
    problems += (
        found
        + full.problems()
        + _warmup_problems(full, deepspeed, json_path, is_given=facts["warmup_steps"] is not None)
    )
    if "dynamic_sparsity" in deepspeed and facts["steps"] is not None:
        problems += _sparsity_problems(deepspeed)
    problems += [
        f'Expected a value at {".".join(place)} in {json_path.name}. Got "auto", which only batch sizes, steps and '
        "learning rates may say"
        for place in places_that_say_auto(deepspeed)
        if not any(place in places for places in _SHARED.values())
    ]
    if problems:
        raise UserError("; ".join(problems) + ".")
    return MergedRun(run=full, deepspeed=deepspeed, gradient_accumulation_steps=accumulation)


def _agree(
    name: str, value: Any, deepspeed: Json, places: tuple[tuple[str, ...], ...], json_path: Path
) -> tuple[Any, list[str]]:
    """The one value of a fact, and what is wrong with the places that give it."""
    givers = [(".".join(place), get_at(deepspeed, place)) for place in places]
    givers = [(place, given) for place, given in givers if given not in (None, AUTO)]
    is_whole = name.removeprefix("train.") in _WHOLE
    if value is None:
        if not givers:
            # The micro-batch can be derived and a run without scheduler has no warm-up: nobody need give these.
            needed = name != "train.micro_batch_size" and (name != "train.warmup_steps" or places)
            missing = f"Expected {name} in the run or the JSON. Got neither: --config launch/presets/tiny.yaml has one"
            return None, [missing] if needed else []
        name, value = f"{givers[0][0]} in {json_path.name}", givers[0][1]
    if isinstance(value, bool) or not isinstance(value, int if is_whole else int | float):
        return None, [f"Expected a {'whole ' if is_whole else ''}number at {name}. Got {value!r}"]
    return value, [
        f"Expected one value. Got {name} = {value} and {place} = {given!r} in {json_path.name}: remove one of them"
        for place, given in givers
        if given != value
    ]


def _warmup_problems(run: RunConfig, deepspeed: Json, json_path: Path, *, is_given: bool) -> list[str]:
    steps = run.train.warmup_steps
    if "scheduler" not in deepspeed and steps:
        return [
            f"Expected a scheduler in {json_path.name} for train.warmup_steps = {steps}. Got none: add one, or set "
            "train.warmup_steps to 0 for a constant learning rate"
        ]
    if "scheduler" in deepspeed and is_given and steps is not None and 0 <= steps < _MIN_WARMUP_STEPS:
        return [f"Expected train.warmup_steps to be at least {_MIN_WARMUP_STEPS}, DeepSpeed's least. Got {steps}"]
    return []


def _accumulation(facts: Json, deepspeed: Json, json_path: Path, world_size: int) -> tuple[int, list[str]]:
    """Micro-batches per optimizer step, filling `facts["micro_batch_size"]` where nobody gave it."""
    total, micro = facts["global_batch_size"], facts["micro_batch_size"]
    given = deepspeed.get("gradient_accumulation_steps", AUTO)
    if total is None:
        return 1, []
    if micro is None:
        micro = max(1, total // (world_size * (given if isinstance(given, int) and given > 0 else 1)))
        facts["micro_batch_size"] = micro
    accumulation, rest = divmod(total, micro * world_size) if micro > 0 else (0, 0)
    if rest or accumulation < 1:
        return 1, [
            f"Expected train.global_batch_size to be a multiple of train.micro_batch_size x ranks. Got {total} and "
            f"{micro} x {world_size}"
        ]
    if given not in (AUTO, None, accumulation):
        return 1, [
            f"Expected gradient_accumulation_steps in {json_path.name} to be {accumulation}, which follows from "
            f"{total} / ({micro} x {world_size} ranks). Got {given!r}: leave it out"
        ]
    return accumulation, []


def _without_nulls(run: RunConfig, facts: Json) -> RunConfig:
    # No scheduler in the JSON means no warm-up.
    known = {name: value for name, value in facts.items() if value is not None}
    train = replace(run.train, **{"warmup_steps": 0, **known} if run.train.warmup_steps is None else known)
    data = replace(
        run.data,
        seq_length=run.model.max_seq_length if run.data.seq_length is None else run.data.seq_length,
        seed=train.seed if run.data.seed is None else run.data.seed,
    )
    output = run.output if run.output is not None else f"runs/{run.model.preset}"
    return replace(run, train=train, data=data, output=str(Path(output).expanduser().absolute()))


def _tensorboard(run: RunConfig, deepspeed: Json, json_path: Path) -> tuple[Json, list[str]]:
    """DeepSpeed's monitor, pointed at OUTPUT/tensorboard."""
    ours = {"enabled": run.monitor.tensorboard, "output_path": run.output, "job_name": "tensorboard"}
    given = deepspeed.get("tensorboard")
    if given is None or (isinstance(given, dict) and all(ours.get(key) == given[key] for key in given)):
        return ours, []
    return ours, [f'Expected no "tensorboard" in {json_path.name}: monitor.tensorboard and output say it. Got {given}']


def _sparsity_problems(deepspeed: Json) -> list[str]:
    """What the engine will not take of its own block, told together with the rest."""
    from dsparse.engine.config import parse_sparsity_block

    try:
        parse_sparsity_block(deepspeed["dynamic_sparsity"], deepspeed.get("scheduler"))
    except UserError as error:
        return [str(error).rstrip(".")]
    return []
