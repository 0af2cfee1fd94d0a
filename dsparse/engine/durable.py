"""`DurableEngine`: DeepSpeed's engine whose checkpoints are whole or not there, and load on any ranks and ZeRO stage.

It also applies no step whose loss or gradient norm is not finite, at any stage: DeepSpeed itself lets such a step into
the weights at stage 0 in fp32. Where nothing of that happens it trains to the same bits as DeepSpeed's engine.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import logging
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.engine import DeepSpeedEngine

from dsparse.checkpoint import folder
from dsparse.checkpoint.manifest import Manifest
from dsparse.engine.agree import Agreement
from dsparse.engine.checkpoint_files import CheckpointFiles
from dsparse.engine.compatibility import check_checkpoint_writer
from dsparse.engine.elastic import about_optimizer, in_words, layout_of, load_elastically
from dsparse.engine.fragments import FragmentMap, trained_weights
from dsparse.engine.saved_weights import SavedWeights
from dsparse.engine.wholeness import NODES, require_whole
from dsparse.engine.world import release_shared_buffers
from dsparse.errors import CheckpointError
from dsparse.faults import reach
from dsparse.files import FileRecord

logger = logging.getLogger(__name__)

_MAX_TOLD = 1 << 16
"""Characters of one client value that a manifest repeats."""


class DurableEngine(DeepSpeedEngine):
    """A DeepSpeed engine for runs that are to survive. `pretrain.py` trains dense models with it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_checkpoint_writer(self)
        self.checkpoint_engine = CheckpointFiles(self._config)
        self._agreement = Agreement(self.data_parallel_group, self.device)
        self._agreement.any_rank([False])  # every rank is there
        release_shared_buffers()
        weights = dict(self.module.named_parameters())
        self._all_weights = FragmentMap(self, trained_weights(self.optimizer, weights, self.zero_optimization_stage()))

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """As DeepSpeed's; a loss that is not finite makes every gradient NaN, by which all ranks skip the step."""
        is_finite = torch.isfinite(loss.detach())
        return super().backward(loss * torch.where(is_finite, 1.0, torch.nan).to(loss.dtype), *args, **kwargs)

    def save_checkpoint(
        self,
        save_dir: str,
        tag: str | None = None,
        client_state: dict[str, Any] | None = None,
        save_latest: bool = True,
        exclude_frozen_parameters: bool = False,
    ) -> bool:
        """As DeepSpeed's, but the checkpoint appears whole or not at all, with a checksum of every file.

        It is written under another name, flushed to the disk and renamed; `latest` moves last. After an error `latest`
        is as it was, and so is the checkpoint that it names, on every rank.

        Raises:
            UserError: the tag cannot name a folder, or the client state is not plain values and tensors.
            OSError: it cannot be written; a `SparsityError` on ranks where it could.
        """
        root = Path(save_dir)
        tag = f"global_step{self.global_steps}" if tag is None else str(tag)
        self._require_same(tag, "tag to save")
        folder.require_tag(tag)
        aside = folder.aside_of(root, tag)
        files, writes = self.checkpoint_engine, self._is_writer()

        def publish() -> None:
            if writes:
                if self.zero_optimization():
                    super(DurableEngine, self)._copy_recovery_script(str(root))
                folder.publish(root, tag)
                reach("save.latest")
                if save_latest:
                    folder.write_latest(root, tag)

        self._agreement.together(lambda: folder.begin(root, tag) if writes else None, f"making {aside}")
        files.begin()
        state = client_state or {}
        try:
            super().save_checkpoint(str(root), aside.name, state, False, exclude_frozen_parameters)
            self._write_manifest(aside, tag, state)
            self._agreement.together(publish, f"giving {root / tag} its name")
        except Exception:
            files.stop()
            if writes:
                folder.abandon(root, tag)
            raise
        return True

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
        """As DeepSpeed's, but every byte is compared first, and ranks and ZeRO stage may be others than at the save.

        Raises:
            CheckpointError: on every rank, before anything is loaded: a file is damaged or missing, and which; with the
                name of an earlier checkpoint that is whole.
        """
        options: dict[str, Any] = {
            "load_module_strict": load_module_strict,
            # At stage 3 DeepSpeed would otherwise leave the weights as they are.
            "load_optimizer_states": load_optimizer_states and not load_module_only,
            "load_lr_scheduler_states": load_lr_scheduler_states,
            "load_module_only": load_module_only,
            "custom_load_fn": custom_load_fn,
        }
        root = Path(load_dir)
        found = self._agreement.together(lambda: folder.latest_tag(root) if tag is None else str(tag), "reading latest")
        self._require_same(found, "checkpoint to load")
        if found is None:
            return super().load_checkpoint(load_dir, tag, **options)
        name = folder.locate(root, found)
        manifest = require_whole(root, name, self._agreement, node_local=self.use_node_local_storage())
        result = self._load(root, name, manifest, options)
        self._all_weights.link_public_calls()
        return result

    def prune_checkpoints(self, save_dir: str, *, keep: int, keep_every: int = 0) -> None:
        """Removes old checkpoints. Every rank must call it.

        Args:
            save_dir: as given to `save_checkpoint`.
            keep: how many of those saved last stay, at least 1; the one that `latest` names stays too.
            keep_every: those at a multiple of so many steps stay as well; 0 keeps none for that.
        """

        def prune() -> None:
            if self._is_writer():
                folder.prune(Path(save_dir), keep=keep, keep_every=keep_every)

        self._agreement.together(prune, f"removing old checkpoints from {save_dir}")

    def _load(
        self, root: Path, name: str, manifest: Manifest, options: Mapping[str, Any]
    ) -> tuple[str | None, dict[str, Any] | None]:
        """Loads a checkpoint that has been found whole."""
        if self._can_read_files_of(manifest, options):
            result = super().load_checkpoint(str(root), name, **options)
            if not options["load_optimizer_states"]:
                self._all_weights.refresh_masters()
            return result
        then, now = manifest.about["layout"], self._layout()
        if then != now and self.global_rank == 0:
            logger.warning(
                "the checkpoint %s was saved by %s, this is %s: the results agree to floating-point order",
                root / name,
                in_words(then),
                in_words(now),
            )

        def load() -> tuple[str, dict[str, Any]]:
            saved = self._saved_weights(root / name, manifest)
            return load_elastically(self, self._all_weights, saved, manifest, options)

        return self._agreement.together(load, f"loading {root / name}")

    def _saved_weights(self, folder: Path, manifest: Manifest) -> SavedWeights:
        """The weights of a checkpoint as this engine stores them."""
        return SavedWeights(folder, manifest)

    def _can_read_files_of(self, manifest: Manifest, options: Mapping[str, Any]) -> bool:
        # Without optimizer state DeepSpeed's stage 3 takes the weights of another tag, the one `latest` names.
        reads_another = self.zero_optimization_stage() == 3 and not options["load_optimizer_states"]
        is_same = manifest.about["layout"] == self._layout() and not reads_another
        # One answer for all, though the last rank may own less.
        return bool(self._agreement.gather_plain(is_same)[0])

    def _take_model_step(self, lr_kwargs: Any) -> None:
        if self._guards_itself() or self._has_finite_gradients():
            super()._take_model_step(lr_kwargs)
            return
        # As DeepSpeed does after an overflow.
        self.zero_grad()
        self._step_applied = False
        self.skipped_steps += 1
        self.losses = None
        self.global_steps += 1
        num_micro_batches = self.gradient_accumulation_steps()
        if not self.managed_gradient_accumulation():
            num_micro_batches = int(self._unmanaged_backward_count)
            self._unmanaged_backward_count: int = 0
        self.global_samples += self.train_batch_size() // self.gradient_accumulation_steps() * num_micro_batches

    def _guards_itself(self) -> bool:
        """Whether DeepSpeed's wrapper skips a step by itself; torch's own optimizer, without wrapper, does not."""
        is_scaled = self.torch_autocast_z0_gradscaler is not None
        return self.zero_optimization() or self.fp16_enabled() or self.bfloat16_enabled() or is_scaled

    def _has_finite_gradients(self) -> bool:
        gradients = [weight.grad for weight in self.module.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self._global_grad_norm = norm
        return not self._agreement.any_rank([not bool(torch.isfinite(norm))])[0]

    def _copy_recovery_script(self, save_path: str) -> None:
        """Done later, with errors told to all ranks; DeepSpeed calls this while the other ranks wait."""

    def _require_same(self, mine: str | None, what: str) -> None:
        """Raises on every rank unless all say the same: the others would wait for ever for one that went elsewhere."""
        said = self._agreement.gather_plain(mine)
        if any(one != said[0] for one in said):
            odd = next(rank for rank, one in enumerate(said) if one != said[0])
            raise CheckpointError(
                f"Expected one {what} on all ranks. Got {said[0]!r} on rank 0 and {said[odd]!r} on rank {odd}: do they "
                "see the same folder?"
            )

    def _is_writer(self) -> bool:
        """Whether this rank writes what is written once for each storage."""
        return (self.local_rank if self.use_node_local_storage() else self.global_rank) == 0

    def _layout(self) -> dict[str, Any]:
        return layout_of(self, self._all_weights)

    def _about(self, tag: str, client_state: Mapping[str, Any]) -> dict[str, Any]:
        """What the checkpoint is of, for `dsparse checkpoint inspect` and for loading elsewhere; plain values."""
        return {
            "tag": tag,
            "global_steps": self.global_steps,
            "skipped_steps": self.skipped_steps,
            "saved_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "layout": self._layout(),
            **about_optimizer(self),
            "client_state": {str(key): value for key, value in client_state.items() if _is_plain(value)},
            "versions": {
                "dsparse": importlib.metadata.version("dsparse"),
                "deepspeed": deepspeed.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }

    def _write_own_files(self, aside: Path) -> dict[str, FileRecord]:
        """Writes what is not DeepSpeed's; called on ranks that write for their storage."""
        return {}

    def _write_manifest(self, aside: Path, tag: str, client_state: Mapping[str, Any]) -> None:
        writes, node_local = self._is_writer(), self.use_node_local_storage()

        def finish() -> dict[str, FileRecord]:
            records = self.checkpoint_engine.finish(aside)
            return records | (self._write_own_files(aside) if writes else {})

        mine = self._agreement.together(finish, f"writing files of {aside}")
        first_rank = self.global_rank - self.local_rank
        said = self._agreement.gather_plain(
            [first_rank, {name: [record.num_bytes, record.sha256] for name, record in mine.items()}]
        )
        # Where each node has its own storage, nodes write some files of the same name, and not always the same bytes:
        # a manifest is of what its node has, and lists the rest for whoever brings the files together.
        own_first = sorted(said, key=lambda one: one[0] != first_rank)
        files: dict[str, FileRecord] = {}
        nodes: dict[str, list[str]] = {}
        for node, records in own_first:
            for name, (num_bytes, sha256) in records.items():
                files.setdefault(name, FileRecord(num_bytes=num_bytes, sha256=sha256))
                nodes.setdefault(str(node), []).append(name)
        about = self._about(tag, client_state) | ({NODES: nodes} if node_local else {})

        def write() -> None:
            if writes:
                reach("save.manifest")
                Manifest(files=files, about=about).write(aside)

        self._agreement.together(write, f"writing the manifest of {aside}")


def _is_plain(value: Any) -> bool:
    """Whether a value can be read in the manifest too, and is not more than a manifest should hold."""
    try:
        return len(json.dumps(value)) <= _MAX_TOLD
    except (TypeError, ValueError, RecursionError):
        return False
