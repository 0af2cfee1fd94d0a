"""`SparseEngine`: DeepSpeed's engine, plus a pattern update at optimizer-step boundaries."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from dsparse.checkpoint import patterns as pattern_file
from dsparse.checkpoint.manifest import Manifest
from dsparse.engine.compatibility import check_optimizer, check_wrapper
from dsparse.engine.config import SparsityConfig
from dsparse.engine.durable import DurableEngine
from dsparse.engine.fragments import FragmentMap
from dsparse.engine.report import UpdateReport
from dsparse.engine.saved_layout import SavedInLayout
from dsparse.engine.saved_weights import SavedWeights
from dsparse.engine.updater import SparsityUpdater
from dsparse.files import FileRecord
from dsparse.layout.base import WeightLayout
from dsparse.layout.packed import PackedLinear
from dsparse.pattern.block_pattern import BlockPattern
from dsparse.pattern.history import PatternHistory

logger = logging.getLogger(__name__)


class SparseEngine(DurableEngine):
    """A DeepSpeed engine whose sparse weights keep to their patterns and whose patterns follow the schedule.

    Made by `dsparse.initialize`. Everything DeepSpeed's engine offers works as before.
    """

    def __init__(
        self,
        *args: Any,
        sparsity: SparsityConfig,
        weights: Mapping[str, nn.Parameter],
        patterns: Mapping[str, BlockPattern],
        layouts: Mapping[str, WeightLayout],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_wrapper(self.optimizer)
        check_optimizer(self.basic_optimizer)
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
    def kernels(self) -> list[str]:
        """What computes the packed weights, "cpu (avx2)" for one; empty in the masked layout, which torch computes."""
        layers = [module for module in self.module.modules() if isinstance(module, PackedLinear)]
        return sorted({layer.backend_name() for layer in layers})

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

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> bool:
        """As `DurableEngine`'s, with the patterns in the same folder; they must be the same on all ranks."""
        self._sparsity.require_agreement("before saving a checkpoint")
        return super().save_checkpoint(*args, **kwargs)

    def _load(
        self, root: Path, name: str, manifest: Manifest, options: Mapping[str, Any]
    ) -> tuple[str | None, dict[str, Any] | None]:
        """Weights and patterns; a checkpoint without patterns is refused before anything is loaded.

        With `load_module_only` a new run starts from weights and patterns: updates and DOF covered are counted anew.
        """

        def read_patterns() -> pattern_file.SparseState:
            state = pattern_file.load_state(root / name)
            changed = pattern_file.require_compatible(state, self.patterns, dataclasses.asdict(self.sparsity_config))
            if changed and self.global_rank == 0:
                logger.warning("settings changed since the checkpoint: %s", "; ".join(changed))
            return state

        state = self._agreement.together(read_patterns, f"reading patterns from {root / name}")
        result = super()._load(root, name, manifest, options)
        histories = {name: history.to(self.device) for name, history in state.histories.items()}
        begins_anew = options["load_module_only"]
        if begins_anew:
            histories = {name: PatternHistory.begin(history.pattern) for name, history in histories.items()}
        self._sparsity.restore(
            histories, 0 if begins_anew else state.num_updates, has_moments=options["load_optimizer_states"]
        )
        self._sparsity.require_invariant("after loading a checkpoint")
        return result

    def _saved_weights(self, folder: Path, manifest: Manifest) -> SavedWeights:
        return SavedInLayout(folder, manifest, packed=self.sparsity_config.layout == "packed")

    def _layout(self) -> dict[str, Any]:
        layout = super()._layout()
        return layout | {"weights": "packed"} if self.sparsity_config.layout == "packed" else layout

    def _about(self, tag: str, client_state: Mapping[str, Any]) -> dict[str, Any]:
        return super()._about(tag, client_state) | {"num_pattern_updates": self.num_pattern_updates}

    def _write_own_files(self, aside: Path) -> dict[str, FileRecord]:
        record = pattern_file.save_state(
            aside, self._sparsity.histories, self._sparsity.num_updates, dataclasses.asdict(self.sparsity_config)
        )
        return {pattern_file.FILE_NAME: record}

    def destroy(self) -> None:
        """As DeepSpeed's; masks come off the parameters too. Packed layers stay packed, and work without the engine."""
        # DeepSpeed calls this of an engine that was never finished, too.
        for layout in self.__dict__.get("_layouts", {}).values():
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
