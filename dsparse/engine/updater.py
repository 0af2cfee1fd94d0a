"""The pattern update at a step boundary: reduce, drop, grow, apply, agree (arXiv 2108.06277, section 2).

Whatever can stop an update is looked at for all weights, on all ranks, before anything is changed for one. Weights are
then done one after another, so that the extra memory is one weight's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from dsparse.engine.agree import Agreement, WeightWitness
from dsparse.engine.config import SparsityConfig
from dsparse.engine.fragments import FragmentMap
from dsparse.engine.report import UpdateReport, WeightUpdate
from dsparse.engine.verify import require_zeros
from dsparse.errors import NonFiniteWeightError
from dsparse.layout.base import WeightLayout
from dsparse.methods import METHODS, UpdateContext
from dsparse.methods.scores import reduction_of
from dsparse.pattern.edit import PatternEdit, drop_and_grow
from dsparse.pattern.history import PatternHistory
from dsparse.schedule import drop_fraction, is_update_step, num_moved


class SparsityUpdater:
    """Owns the patterns of all sparse weights and changes them when the schedule says so."""

    def __init__(
        self,
        config: SparsityConfig,
        histories: Mapping[str, PatternHistory],
        *,
        layouts: Mapping[str, WeightLayout],
        fragments: FragmentMap,
        agreement: Agreement,
    ) -> None:
        self.config = config
        self.num_updates = 0
        self.last_update: UpdateReport | None = None
        self._layouts = dict(layouts)
        self._fragments = fragments
        self._agreement = agreement
        self._histories: dict[str, PatternHistory] = {}
        self._recorded: dict[str, int] = {}
        self._has_checked_a_step = False
        self._verify_before_next = False
        for name, history in histories.items():
            self._set_history(name, history)

    @property
    def histories(self) -> Mapping[str, PatternHistory]:
        """Pattern and past of each sparse weight, by parameter name."""
        return self._histories

    def restore(self, histories: Mapping[str, PatternHistory], num_updates: int, *, has_moments: bool) -> None:
        """Takes over the patterns of a checkpoint; weights and moments are the caller's to load.

        Args:
            histories: by parameter name.
            num_updates: made so far.
            has_moments: whether moments came with the weights. If not, those of now stay where the patterns agree.
        """
        for name, history in histories.items():
            if not has_moments:
                stale_N = self._layouts[name].stale(self._histories[name].pattern, history.pattern)
                self._fragments[name].zero_moments(stale_N)
            self._set_history(name, history)
        self.num_updates = num_updates
        self.last_update = None
        self._has_checked_a_step = self._verify_before_next = False
        self.require_agreement("after loading a checkpoint")

    def commit_after_step(self, step: int) -> None:
        """Updates the patterns if one is due right after applied step `step`."""
        config = self.config
        if not self._has_checked_a_step:
            # Before an update has zeroed anything, and whatever the method: what else writes to these tensors is seen.
            self.require_agreement("after the first step")
            self._require_finite("after the first step")
            self.require_invariant("after the first step")
            self._has_checked_a_step = True
        if not config.changes_pattern or config.total_steps is None:
            return
        if is_update_step(step, total_steps=config.total_steps, updates=config.updates):
            self._update(step, config.total_steps)

    def require_agreement(self, when: str) -> None:
        """Raises on all ranks unless all hold the same, unaltered patterns, and they are the ones in force."""
        self._agreement.require_same_patterns({name: self._witness(name) for name in self._histories}, when)

    def require_invariant(self, when: str) -> None:
        """Raises on all ranks unless weights, masters and moments are exactly 0 outside the patterns. Dear."""
        require_zeros(self._fragments, self._inactive(), self._agreement, when)

    def _inactive(self) -> dict[str, Tensor]:
        """Where each weight must be 0; those that store nothing else than active blocks are left out."""
        found = {name: layout.inactive for name, layout in self._layouts.items()}
        return {name: inactive for name, inactive in found.items() if inactive is not None}

    def _update(self, step: int, total_steps: int) -> None:
        started_s = time.perf_counter()
        number, config = self.num_updates + 1, self.config
        # Before as well as after: scores of patterns that differ are not comparable, or not even of the same length.
        self.require_agreement(f"before update {number}")
        self._require_finite(f"at update {number}")
        if self._verify_before_next:
            # What an update left in a place that we do not know of has come back by now.
            self.require_invariant(f"before update {number}")
        fraction = drop_fraction(
            step, total_steps=total_steps, initial=config.drop_fraction, schedule=config.drop_schedule
        )
        # The first one of this process: after a resume, DeepSpeed or the machine may be another.
        is_first = self.last_update is None
        verifies = is_first or (config.verify_every > 0 and (number - 1) % config.verify_every == 0)
        reports: dict[str, WeightUpdate] = {}
        zeroed: dict[str, Tensor] = {}
        for name in self._histories:
            reports[name], touched = self._apply(name, self._edit(name, number, fraction))
            if verifies:
                zeroed[name] = touched
        self.num_updates = number
        self.require_agreement(f"after update {number}")
        self._verify_before_next = verifies
        if verifies:
            require_zeros(self._fragments, zeroed | self._inactive(), self._agreement, f"after update {number}")
        self.last_update = UpdateReport(number, step, fraction, time.perf_counter() - started_s, reports)

    def _require_finite(self, when: str) -> None:
        """Raises on all ranks, before anything is changed, if any weight is not finite on any rank."""
        is_broken = self._agreement.together(
            lambda: [not _is_finite(self._fragments[name].master_n) for name in self._histories],
            "looking at the weights",
        )
        found = zip(self._histories, self._agreement.any_rank(is_broken), strict=True)
        broken = [name for name, is_bad in found if is_bad]
        if broken:
            raise NonFiniteWeightError(
                f"Expected finite weights {when}. Got NaN or infinity in {', '.join(map(repr, broken))}; "
                "patterns are unchanged. Resume from the last checkpoint with a lower learning rate."
            )

    @torch.no_grad()
    def _edit(self, name: str, number: int, fraction: float) -> PatternEdit:
        """What an update does to one weight; the same on every rank."""
        pattern, fragment = self._histories[name].pattern, self._fragments[name]
        grow_score = METHODS[self.config.method].grow_score
        assert grow_score is not None
        master_n = fragment.master_n.to(pattern.rows.device)
        scores_S = self._layouts[name].partial_scores(master_n, fragment.start, pattern, self.config.score)
        if self._fragments.partitioned:
            scores_S = self._agreement.reduce_scores(scores_S, reduction_of(self.config.score, pattern.block))
        return drop_and_grow(
            pattern,
            scores_S,
            grow_score(pattern, UpdateContext(self.config.seed, name, number)),
            num_moved(fraction, pattern.num_active),
            regrow_dropped=self.config.regrow_dropped,
        )

    def _apply(self, name: str, edit: PatternEdit) -> tuple[WeightUpdate, Tensor]:
        """What happened, and where the stored weight (bool [N]) is 0 now."""
        before = self._histories[name]
        touched_N = self._layouts[name].touched(before.pattern, edit)
        self._fragments[name].zero(touched_N)
        after = before.after(edit)
        self._set_history(name, after)
        update = WeightUpdate(
            num_moved=edit.num_moved,
            turnover=edit.num_changed / before.pattern.num_active,
            removed_new_ratio=before.removed_new_ratio(edit),
            coverage=after.coverage,
            density=after.pattern.density,
        )
        return update, touched_N

    def _set_history(self, name: str, history: PatternHistory) -> None:
        self._histories[name] = history
        self._recorded[name] = history.pattern.digest(name)
        self._layouts[name].set_pattern(history.pattern)

    def _witness(self, name: str) -> WeightWitness:
        pattern = self._histories[name].pattern
        return WeightWitness(
            digest=pattern.digest(name),
            recorded=self._recorded[name],
            is_in_force=pattern.is_valid() and self._layouts[name].holds(pattern),
        )


def _is_finite(values_n: Tensor) -> bool:
    """Whether all are; their extremes tell, for NaN is both, in a tenth of the time of looking at each."""
    return not values_n.numel() or all(bool(torch.isfinite(one)) for one in torch.aminmax(values_n))
