"""From a command line to a trained model: check everything, start the engine, train, sum up.

Whatever can be wrong with the input is found before a process group starts and before a file is written, on every rank;
one rank says it, in one line.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from dsparse.engine.world import (
    barrier,
    close_world,
    init_world,
    launched_local_rank,
    launched_local_size,
    launched_rank,
    launched_world_size,
    rank,
    set_deepspeed_log_level,
)
from dsparse.errors import SparsityError, UserError, exit_on_user_error
from dsparse.train.checkpoint import RunRecord, RunState, find_checkpoint, require_same_run
from dsparse.train.config import RunConfig, find_input, parse_command_line
from dsparse.train.deepspeed_config import MergedRun, merge, read_json
from dsparse.train.host import tune_host

if TYPE_CHECKING:
    from dsparse.data.loader import PretrainingData
    from dsparse.models.bert import BertForLabelledPreTraining

_SECONDS_FOR_THE_FIRST_RANK = 10.0


def main(argv: Sequence[str] | None = None) -> None:
    """The program behind `launch/pretrain.py`; exits with 2 after a user error."""
    argv = sys.argv[1:] if argv is None else argv
    with exit_on_user_error("--debug" in argv), _one_voice():
        with _silent_unless_first():
            command = parse_command_line(argv)
        merged = load_run(command.run)
        if command.print_config:
            with _silent_unless_first():
                print(describe(merged), end="")
            return
        pretrain(merged)


def load_run(run: RunConfig) -> MergedRun:
    """Finds the run's files and joins it with its DeepSpeed JSON; UserError for whatever is wrong with either."""
    json_path = find_input(run.deepspeed_config)
    run = replace(run, deepspeed_config=str(json_path), data=replace(run.data, store=str(find_input(run.data.store))))
    return merge(run, read_json(json_path), json_path=json_path, world_size=launched_world_size())


def pretrain(merged: MergedRun) -> None:
    """Trains, or goes on training, until the run's last step; a finished run is only summed up again."""
    t0_s = time.perf_counter()
    host = tune_host(launched_local_size())
    plan = check(merged)
    set_deepspeed_log_level(merged.run.monitor.log_level)
    init_world()
    try:
        _train(merged, plan, host, t0_s)
    finally:
        close_world()


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
        require_same_run(record, checkpoint)
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


def describe(merged: MergedRun) -> str:
    """The merged run as YAML that `--config` reads, and the DeepSpeed JSON that goes with it as a comment."""
    import json
    from dataclasses import asdict

    import yaml

    engine = json.dumps({k: v for k, v in merged.deepspeed.items() if k != "tensorboard"}, indent=2)
    comment = "".join(f"# {line}\n" for line in engine.splitlines())
    settings = yaml.safe_dump(asdict(merged.run), sort_keys=False)
    return f"{settings}\n# The DeepSpeed JSON as the engine gets it:\n{comment}"


def _train(merged: MergedRun, plan: Plan, host: str, t0_s: float) -> None:
    import dsparse
    from dsparse.data.loader import LoaderState, MicroBatches
    from dsparse.train.cost import EncoderCost
    from dsparse.train.loop import Session, train
    from dsparse.train.monitor import Monitor
    from dsparse.train.progress import Progress
    from dsparse.train.report import write_report

    run, output = merged.run, merged.output
    cost = EncoderCost.of_bert(
        plan.model,
        run.model.preset,
        seq_length=merged.seq_length,
        num_sequences=merged.global_batch_size,
    )
    engine, *_ = dsparse.initialize(model=plan.model, model_parameters=plan.model.parameters(), config=merged.deepspeed)
    state = RunState()
    if plan.checkpoint is not None:
        _, client_state = engine.load_checkpoint(str(plan.checkpoint.parent), tag=plan.checkpoint.name)
        state = RunState.from_client_state(client_state or {}, plan.checkpoint)
    if rank() == 0:
        output.mkdir(parents=True, exist_ok=True)
        plan.record.write(output)
    barrier()
    session = Session(
        merged=merged,
        engine=engine,
        batches=iter(
            MicroBatches(
                plan.train,
                micro_batch_size=merged.micro_batch_size,
                rank=rank(),
                world_size=launched_world_size(),
                gradient_accumulation_steps=merged.gradient_accumulation_steps,
                num_workers=run.data.num_workers,
                state=None if state.loader is None else LoaderState.from_dict(state.loader),
            )
        ),
        heldout=plan.heldout,
        cost=cost,
        state=state,
        monitor=Monitor(engine, output, first_step=state.step, pattern_every=run.monitor.pattern_every),
        progress=Progress(speaks=rank() == 0, first_step=state.step, last_step=merged.last_step),
        t0_s=t0_s - state.wall_s,
    )
    with session.progress:
        _greet(session, merged, plan, host)
        train(session)
    if rank() == 0:
        print(write_report(output), flush=True)


def _greet(session: Any, merged: MergedRun, plan: Plan, host: str) -> None:
    run, say = merged.run, session.progress.say
    say(host)
    say(
        f"bert-{run.model.preset}: {merged.steps} steps of {merged.global_batch_size} x {merged.seq_length} "
        f"tokens ({launched_world_size()} ranks x {merged.micro_batch_size} x {merged.gradient_accumulation_steps} "
        f"accumulated), {plan.num_parameters:,} parameters, results in {run.output}"
    )
    if plan.checkpoint is not None:
        say(f"going on from {plan.checkpoint}, step {session.state.step}")


@contextlib.contextmanager
def _one_voice() -> Iterator[None]:
    """Lets the first rank of the machine say what all ranks have found.

    The launcher ends the others as soon as one exits, so they leave it the time to speak first, and speak up
    themselves if it did not.
    """
    try:
        yield
    except SparsityError as error:
        raise UserError(str(error)) from error
    except UserError:
        if launched_local_rank() > 0:
            time.sleep(_SECONDS_FOR_THE_FIRST_RANK)
        raise


@contextlib.contextmanager
def _silent_unless_first() -> Iterator[None]:
    if launched_rank() == 0:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
