"""`SparseEngine`: DeepSpeed's engine, plus a pattern update at optimizer-step boundaries."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepspeed.runtime.engine import DeepSpeedEngine
from torch import nn

from dsparse.engine import checkpoint
from dsparse.engine.agree import Agreement
from dsparse.engine.compatibility import check_checkpoint_writer, check_optimizer, check_wrapper
from dsparse.engine.config import SparsityConfig
from dsparse.engine.fragments import FragmentMap
from dsparse.engine.report import UpdateReport
from dsparse.engine.updater import SparsityUpdater
from dsparse.layout.masked import MaskedWeight
from dsparse.pattern.block_pattern import BlockPattern
from dsparse.pattern.history import PatternHistory

logger = logging.getLogger(__name__)


class SparseEngine(DeepSpeedEngine):
    """A DeepSpeed engine whose sparse weights keep to their patterns and whose patterns follow the schedule.

    Made by `dsparse.initialize`. Everything DeepSpeed's engine offers works as before.
    """

    def __init__(
        self,
        *args: Any,
        sparsity: SparsityConfig,
        weights: Mapping[str, nn.Parameter],
        patterns: Mapping[str, BlockPattern],
        layouts: Mapping[str, MaskedWeight],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_wrapper(self.optimizer)
        check_optimizer(self.basic_optimizer)
        check_checkpoint_writer(self)
        self._agreement = Agreement(self.data_parallel_group, self.device)
        self._agreement.require_same_run(_description(sparsity, patterns))
        self._fragments = FragmentMap(self, weights)
        self._fragments.check_all_found()
        self._layouts = dict(layouts)
        self._sparsity = SparsityUpdater(
            sparsity,
            {name: PatternHistory.begin(pattern).to(self.device) for name, pattern in patterns.items()},
            layouts=layouts,
            fragments=self._fragments,
            agreement=self._agreement,
        )
        self._sparsity.require_agreement("at the start")

    @property
    def sparsity_config(self) -> SparsityConfig:
        """The checked "dynamic_sparsity" block."""
        return self._sparsity.config

    @property
    def patterns(self) -> dict[str, BlockPattern]:
        """The pattern in force of each sparse weight, by parameter name."""
        return {name: history.pattern for name, history in self._sparsity.histories.items()}

    @property
    def histories(self) -> Mapping[str, PatternHistory]:
        """Pattern, ever-active blocks and blocks grown last of each sparse weight, by parameter name."""
        return self._sparsity.histories

    @property
    def coverage(self) -> dict[str, float]:
        """DOF covered: the share of each sparse weight that has ever been active, 0 to 1, by parameter name."""
        return {name: history.coverage for name, history in self._sparsity.histories.items()}

    @property
    def num_pattern_updates(self) -> int:
        """Pattern updates made so far."""
        return self._sparsity.num_updates

    @property
    def last_update(self) -> UpdateReport | None:
        """What the last update did; None before the first one of this process."""
        return self._sparsity.last_update

    @property
    def num_applied_steps(self) -> int:
        """Optimizer steps that changed the model; steps skipped for overflow are not among them."""
        return self.global_steps - self.skipped_steps

    def verify_sparsity(self) -> None:
        """Raises on all ranks unless everything outside the patterns is exactly 0 and all ranks agree on them.

        A collective call, and a dear one: it gathers every sparse weight and its moments, one at a time.
        """
        self._sparsity.require_agreement("now")
        self._sparsity.require_invariant("now")

    def save_checkpoint(
        self,
        save_dir: str,
        tag: str | None = None,
        client_state: dict[str, Any] | None = None,
        save_latest: bool = True,
        exclude_frozen_parameters: bool = False,
    ) -> Any:
        """As DeepSpeed's, with the patterns in the same folder; `latest` moves when all of it is written."""
        self._sparsity.require_agreement("before saving a checkpoint")
        root = Path(save_dir)
        tag = f"global_step{self.global_steps}" if tag is None else str(tag)
        writes = (self.local_rank if self.use_node_local_storage() else self.global_rank) == 0

        def forget_old_patterns() -> None:
            # Under a tag used before, old patterns must not stand beside new weights, not even after a crash.
            if writes:
                (root / tag / checkpoint.FILE_NAME).unlink(missing_ok=True)

        def save_patterns() -> None:
            if writes:
                histories, num_updates = self._sparsity.histories, self._sparsity.num_updates
                checkpoint.save_state(root / tag, histories, num_updates, self._sparsity.config)
                if save_latest:
                    checkpoint.write_latest(root, tag)

        self._agreement.together(forget_old_patterns, f"removing old patterns from {root / tag}")
        result = super().save_checkpoint(
            save_dir,
            tag=tag,
            client_state=client_state or {},
            save_latest=False,
            exclude_frozen_parameters=exclude_frozen_parameters,
        )
        self._agreement.together(save_patterns, f"saving patterns into {root / tag}")
        return result

    def load_checkpoint(
        self,
        load_dir: str,
        tag: str | None = None,
        load_module_strict: bool = True,
        load_optimizer_states: bool = True,
        load_lr_scheduler_states: bool = True,
        load_module_only: bool = False,
        custom_load_fn: Any = None,
    ) -> tuple[str | None, dict[str, Any] | None]:
        """As DeepSpeed's, with the patterns; refuses a checkpoint without them before anything is loaded.

        With `load_module_only` a new run starts from weights and patterns: updates and DOF covered are counted anew.
        """
        options: dict[str, Any] = {
            "load_module_strict": load_module_strict,
            # At stage 3 DeepSpeed would otherwise leave the weights as they are.
            "load_optimizer_states": load_optimizer_states and not load_module_only,
            "load_lr_scheduler_states": load_lr_scheduler_states,
            "load_module_only": load_module_only,
            "custom_load_fn": custom_load_fn,
        }
        found = checkpoint.find_tag(Path(load_dir), tag)
        if found is None:
            return super().load_checkpoint(load_dir, tag, **options)
        needs_latest = not options["load_optimizer_states"] and self.zero_optimization_stage() == 3

        def read_patterns() -> checkpoint.SparseState:
            if needs_latest:
                checkpoint.require_latest(Path(load_dir), found)
            state = checkpoint.load_state(Path(load_dir) / found)
            changed = checkpoint.require_compatible(state, self.patterns, self._sparsity.config)
            if changed and self.global_rank == 0:
                logger.warning("settings changed since the checkpoint: %s", "; ".join(changed))
            return state

        state = self._agreement.together(read_patterns, f"reading patterns from {Path(load_dir) / found}")
        result = super().load_checkpoint(load_dir, found, **options)
        histories = {name: history.to(self.device) for name, history in state.histories.items()}
        if load_module_only:
            histories = {name: PatternHistory.begin(history.pattern) for name, history in histories.items()}
        self._sparsity.restore(histories, 0 if load_module_only else state.num_updates)
        if load_module_only or not load_optimizer_states:
            # Moments that this engine already had belong to the patterns it had before.
            self._sparsity.zero_outside()
        self._sparsity.require_invariant("after loading a checkpoint")
        return result

    def destroy(self) -> None:
        """As DeepSpeed's; masks come off the parameters too."""
        for layout in self._layouts.values():
            layout.release()
        super().destroy()

    def _take_model_step(self, lr_kwargs: Any) -> None:
        # Overflow is known only after the optimizer's step, so the update is decided behind it.
        super()._take_model_step(lr_kwargs)
        if self.was_step_applied():
            self._sparsity.commit_after_step(self.num_applied_steps)


def _description(sparsity: SparsityConfig, patterns: Mapping[str, BlockPattern]) -> dict[str, Any]:
    """What must be the same on every rank, as plain values."""
    settings = {f"dynamic_sparsity.{key}": value for key, value in dataclasses.asdict(sparsity).items()}
    return settings | {f"the shape of {name!r}": list(pattern.shape) for name, pattern in patterns.items()}
