"""`learning_rate_rule`: a dense optimum's learning rate, multiplied for the sparsity (arXiv 2108.06277)."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

from dsparse.engine.config import SparsityConfig
from dsparse.engine.world import launched_rank
from dsparse.errors import UserError
from dsparse.schedule import sparse_learning_rate_factor

logger = logging.getLogger(__name__)

_WARMUP_SCHEDULERS = ("WarmupLR", "WarmupDecayLR", "WarmupCosineLR")


def apply_learning_rate_rule(
    ds_config: Mapping[str, Any], sparsity: SparsityConfig, *, client_made: Any = None, model_parameters: Any = None
) -> dict[str, Any]:
    """A copy of the configuration with the learning rate of `sparsity.learning_rate_rule`.

    "paper" takes the configured rate as the dense optimum η(0) and multiplies it by exp(1.969 s² + 0.2905 s).

    Args:
        ds_config: DeepSpeed configuration.
        sparsity: the checked block.
        client_made: an optimizer or scheduler that the caller made, whose rate is not ours to change.
        model_parameters: as given to `initialize`; a group of it may have a rate of its own, which is not either.

    Raises:
        UserError: the rate stands somewhere else than in the JSON.
    """
    result = copy.deepcopy(dict(ds_config))
    if sparsity.learning_rate_rule == "none":
        return result
    factor = sparse_learning_rate_factor(sparsity.sparsity)
    optimizer, scheduler = result.get("optimizer"), result.get("scheduler")
    if client_made is not None or not optimizer or (scheduler and scheduler.get("type") not in _WARMUP_SCHEDULERS):
        raise UserError(
            f'Expected optimizer and {" or ".join(_WARMUP_SCHEDULERS)} in the JSON for learning_rate_rule "paper". '
            f'Got others; multiply the learning rate by {factor:.4g} yourself and set the rule to "none".'
        )
    if isinstance(model_parameters, list | tuple) and any(isinstance(g, dict) and "lr" in g for g in model_parameters):
        raise UserError(
            f'Expected no "lr" in a parameter group for learning_rate_rule "paper". Got one; multiply it by '
            f'{factor:.4g} yourself and set the rule to "none".'
        )
    rates = [("optimizer", optimizer, "lr")]
    if scheduler and scheduler["type"] != "WarmupCosineLR":  # which scales the optimizer's own rate
        rates.append(("scheduler", scheduler, "warmup_max_lr"))
    for section, owner, key in rates:
        rate = owner.get("params", {}).get(key)
        if isinstance(rate, bool) or not isinstance(rate, int | float):
            raise UserError(
                f'Expected a number at {section}.params.{key} for learning_rate_rule "paper". Got {rate!r}; give the '
                "dense optimum."
            )
        if launched_rank() == 0:
            logger.warning(
                "learning_rate_rule paper: %s %g -> %g (times %.4g at sparsity %g)",
                key, rate, rate * factor, factor, sparsity.sparsity,
            )  # fmt: skip
        owner["params"][key] = rate * factor
    return result
