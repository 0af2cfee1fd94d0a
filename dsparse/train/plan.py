"""Everything that can fail because of the input, found without a process group and before a file is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from dsparse.engine.world import launched_world_size
from dsparse.train.checkpoint import RunRecord, find_checkpoint, require_same_run
from dsparse.train.deepspeed_config import MergedRun
from dsparse.train.output import require_folder

if TYPE_CHECKING:
    from torch import nn

    from dsparse.data.loader import PretrainingData
    from dsparse.models.bert import BertForLabelledPreTraining


@dataclass(kw_only=True, frozen=True)
class Plan:
    """What the checks have made and found."""

    model: BertForLabelledPreTraining
    train: PretrainingData
    heldout: PretrainingData
    record: RunRecord
    checkpoint: Path | None
    """To go on from; None starts afresh."""
    num_parameters: int
    """Of the whole model, zeros included; ZeRO-3 hides them later."""


def check(merged: MergedRun) -> Plan:
    """Everything that can fail because of the input, without a process group and without writing.

    Raises:
        UserError: what is wrong with the store, the output, the model or its sparsity.
    """
    from dsparse.data.loader import PretrainingData, Split
    from dsparse.engine.initialize import check_sparse_run
    from dsparse.models.bert import build_bert, default_dropout

    run = merged.run
    require_folder(merged.output)
    train, heldout = (
        PretrainingData(
            run.data.store,
            split=split,
            seq_length=merged.seq_length,
            seed=merged.data_seed,
            whole_word=run.data.whole_word,
            mask_probability=run.data.mask_probability,
        )
        for split in get_args(Split)
    )
    train.require_batch(merged.global_batch_size)
    model = build_bert(
        run.model.preset,
        vocab_size=train.vocab_size,
        pad_token_id=train.pad_token_id,
        max_seq_length=run.model.max_seq_length,
        dropout=default_dropout(run.model.preset) if run.model.dropout is None else run.model.dropout,
        seed=run.train.seed,
    )
    if "dynamic_sparsity" in merged.deepspeed:
        check_sparse_run(merged.deepspeed, model)
    record = RunRecord.of(merged, world_size=launched_world_size(), store=_identity(train))
    checkpoint = find_checkpoint(run.checkpoint.resume, merged.output)
    if checkpoint is not None:
        require_same_run(record, checkpoint, merged.output)
    return Plan(
        model=model,
        train=train,
        heldout=heldout,
        record=record,
        checkpoint=checkpoint,
        num_parameters=sum(p.numel() for p in model.parameters()),
    )


def _identity(data: PretrainingData) -> dict[str, str]:
    """Checksums of the store's files: another store at the same place is another run."""
    return {name: record.sha256 for name, record in data.manifest.files.items()}


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Parameters for the optimizer: weight decay for matrices, none for biases and LayerNorms.

    As in BERT's own training (https://github.com/google-research/bert, optimization.py), which the paper follows.
    """
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
