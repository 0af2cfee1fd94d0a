"""The DeepSpeed JSON as written: read without surprises, its places looked up, its mistakes named.

DeepSpeed itself would not complain of all of them: it ignores top-level keys it does not know, and
some of its schedulers take their learning rate from keys of their own.
"""

from __future__ import annotations

import difflib
import json
import sys
from pathlib import Path
from typing import Any

from dsparse.errors import UserError

Json = dict[str, Any]
Place = tuple[str, ...]
"""Keys from the top of the JSON down to a value."""

AUTO = "auto"
"""What a place says that takes the run's value."""

SCHEDULER_KEYS = {
    "WarmupLR": {"warmup_max_lr", "warmup_num_steps"},
    "WarmupDecayLR": {"warmup_max_lr", "warmup_num_steps", "total_num_steps"},
    "WarmupCosineLR": {"warmup_num_steps", "total_num_steps"},
}
"""Which of the shared facts each of DeepSpeed's schedulers takes; with any other the run's would have no effect."""

_TOP_LEVEL = (
    "dynamic_sparsity", "optimizer", "scheduler", "zero_optimization", "fp16", "bf16", "gradient_clipping",
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "tensorboard",
)  # fmt: skip
"""Keys whose misspelling DeepSpeed would ignore without a word, turning into a run that nobody asked for."""


def read_json(path: Path) -> Json:
    """The DeepSpeed JSON as written.

    Raises:
        UserError: no such file, no JSON (with line and column), no object, or a key given twice.
    """
    if not path.is_file():
        raise UserError(f"Expected a DeepSpeed JSON at deepspeed_config. Got {path}, which is not a file.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_object_without_repeats)
    except json.JSONDecodeError as error:
        raise UserError(
            f"Expected JSON in {path}. Got a mistake at line {error.lineno}, column {error.colno}: {error.msg}."
        ) from error
    except RecursionError as error:
        raise UserError(f"Expected JSON in {path}. Got objects or lists nested too deeply.") from error
    except ValueError as error:  # bytes that are no UTF-8, a key given twice, a number of thousands of digits
        raise UserError(f"Expected JSON in {path}. {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"Expected a JSON object in {path}. Got {type(found).__name__}.")
    return found


def takes(deepspeed: Json, place: Place) -> bool:
    """Whether this JSON has the block that the place lies in, and its scheduler knows the key."""
    if place[0] == "scheduler":
        scheduler = deepspeed.get("scheduler")
        if not isinstance(scheduler, dict) or not isinstance(scheduler.get("params", {}), dict):
            return False
        return place[-1] in SCHEDULER_KEYS.get(str(scheduler.get("type")), set())
    return len(place) == 1 or isinstance(get_at(deepspeed, place[:-1]), dict)


def get_at(deepspeed: Json, place: Place) -> Any:
    """The value at a place, None where there is none."""
    node: Any = deepspeed
    for key in place:
        node = node.get(key) if isinstance(node, dict) else None
    return node


def set_at(deepspeed: Json, place: Place, value: Any) -> None:
    """Puts a value at a place, making the objects it lies in."""
    node = deepspeed
    for key in place[:-1]:
        node = node.setdefault(key, {})
    node[place[-1]] = value


def places_that_say_auto(node: Any, place: Place = ()) -> list[Place]:
    """Every place whose value is "auto"."""
    if isinstance(node, dict):
        return [found for key in node for found in places_that_say_auto(node[key], (*place, key))]
    return [place] if node == AUTO else []


def scheduler_problems(deepspeed: Json, json_path: Path) -> list[str]:
    """A scheduler that takes the run's learning rate and warm-up from elsewhere."""
    if "scheduler" not in deepspeed:
        return []
    scheduler = deepspeed["scheduler"]
    kind = scheduler.get("type") if isinstance(scheduler, dict) else None
    if not isinstance(kind, str) or kind not in SCHEDULER_KEYS:
        return [f"Expected scheduler.type in {json_path.name} among {', '.join(SCHEDULER_KEYS)}. Got {kind!r}"]
    if not isinstance(scheduler.get("params", {}), dict):
        return [f"Expected an object at scheduler.params in {json_path.name}. Got {scheduler['params']!r}"]
    return []


def setting_problems(deepspeed: Json, json_path: Path) -> list[str]:
    """Values that DeepSpeed takes without a word and stumbles over in the first step."""
    found = []
    every = deepspeed.get("steps_per_print")
    if every is not None and not (_is_number(every) and isinstance(every, int) and every >= 1):
        found.append(f"steps_per_print to be a whole number of at least 1, or null. Got {every!r}")
    norm = deepspeed.get("gradient_clipping", 0)
    if not (_is_number(norm) and 0 <= norm <= sys.float_info.max):
        found.append(f"gradient_clipping to be a number of at least 0, where 0 clips nothing. Got {norm!r}")
    if get_at(deepspeed, ("optimizer", "params", "capturable")):
        import torch

        if not torch.cuda.is_available():
            found.append("no optimizer.params.capturable without a GPU. Got it")
    return [f"Expected in {json_path.name} {problem}" for problem in found]


def misspelt_keys(deepspeed: Json, json_path: Path) -> list[str]:
    """One phrase for each top-level key that is nearly one that matters."""
    unknown = [key for key in deepspeed if key not in _TOP_LEVEL]
    near = [(key, difflib.get_close_matches(key, _TOP_LEVEL, n=1, cutoff=0.8)) for key in unknown]
    return [f"Unknown key {key!r} in {json_path.name}. Did you mean {match[0]!r}?" for key, match in near if match]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> Json:
    keys = [key for key, _ in pairs]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise UserError(f"Got {', '.join(repeated)} twice in one object.")
    return dict(pairs)
