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
from dataclasses import replace
from pathlib import Path
from typing import Any

from dsparse.engine.activity import mark
from dsparse.engine.builds import use_compiled_ops
from dsparse.engine.watchdog import watch_ranks
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
from dsparse.train.checkpoint import CHECKPOINTS, LAST_GOOD, RunState
from dsparse.train.command_line import parse_command_line
from dsparse.train.config import RunConfig, find_input
from dsparse.train.deepspeed_config import MergedRun, merge
from dsparse.train.deepspeed_json import read_json
from dsparse.train.host import tune_host
from dsparse.train.nodes import is_storage_apart, require_own_record, require_same_checkpoint
from dsparse.train.plan import Plan, check, parameter_groups
from dsparse.train.stop import StopSignals
from dsparse.train.streams import output_may_lose_its_reader

_SECONDS_FOR_THE_FIRST_RANK = 10.0
_START_MAY_TAKE_S = 1800.0  # compiling, and reading a large checkpoint
_COLLECTIVES_LATER_S = 30.0  # than the watchdog, who can say why


def main(argv: Sequence[str] | None = None) -> None:
    """The program behind `launch/pretrain.py`; exits with 2 after a user error, with 0 when asked to stop."""
    argv = sys.argv[1:] if argv is None else argv
    with exit_on_user_error("--debug" in argv), _one_voice():
        with _silent_unless_first():
            command = parse_command_line(argv)
        merged = load_run(command.run)
        if command.print_config:
            with _silent_unless_first():
                print(describe(merged), end="")
            return
        with (
            output_may_lose_its_reader(),
            StopSignals(lambda: farewell(merged.output) if launched_rank() == 0 else None) as signals,
            _lost_workers_in_one_line(),
        ):
            pretrain(merged, signals)


def load_run(run: RunConfig, world_size: int | None = None) -> MergedRun:
    """Finds the run's files and joins it with its DeepSpeed JSON; UserError for whatever is wrong with either.

    Args:
        run: as typed.
        world_size: number of ranks; None takes the launcher's.
    """
    json_path = find_input(run.deepspeed_config)
    run = replace(run, deepspeed_config=str(json_path), data=replace(run.data, store=str(find_input(run.data.store))))
    return merge(run, read_json(json_path), json_path=json_path, world_size=world_size or launched_world_size())


def pretrain(merged: MergedRun, signals: StopSignals) -> None:
    """Trains, or goes on training, until the run's last step or until asked to stop.

    A finished run is only summed up again.
    """
    t0_s = time.perf_counter()
    use_compiled_ops()
    host = tune_host(launched_local_size())
    plan = check(merged)
    set_deepspeed_log_level(merged.run.monitor.log_level)
    timeout_s = merged.run.train.timeout_s
    init_world(timeout_s + _COLLECTIVES_LATER_S)
    mark("starting", step=0, may_take_s=_START_MAY_TAKE_S)
    try:
        with watch_ranks(rank(), launched_world_size(), timeout_s):
            _train(merged, plan, host, t0_s, signals)
    finally:
        close_world()


def describe(merged: MergedRun) -> str:
    """The merged run as YAML that `--config` reads, and the DeepSpeed JSON that goes with it as a comment."""
    import json
    from dataclasses import asdict

    import yaml

    engine = json.dumps({k: v for k, v in merged.deepspeed.items() if k != "tensorboard"}, indent=2)
    comment = "".join(f"# {line}\n" for line in engine.splitlines())
    settings = yaml.safe_dump(asdict(merged.run), sort_keys=False)
    return f"{settings}\n# The DeepSpeed JSON as the engine gets it:\n{comment}"


def farewell(output: Path) -> str:
    """What a run says that was ended before it trained."""
    latest = output / CHECKPOINTS / "latest"
    if not latest.is_file():
        return f"interrupted before the first step of {output}: nothing to save"
    return (
        f"interrupted before a step; go on from {latest.read_text().strip()} with the same command and "
        "--checkpoint.resume auto"
    )


def _train(merged: MergedRun, plan: Plan, host: str, t0_s: float, signals: StopSignals) -> None:
    from dsparse.train.events import event_files
    from dsparse.train.loop import train
    from dsparse.train.output import continue_record, held
    from dsparse.train.report import write_report
    from dsparse.train.resume import find_last_good

    output = merged.output
    if merged.run.checkpoint.resume == LAST_GOOD:
        plan = replace(plan, checkpoint=find_last_good(output, node_local=is_storage_apart(merged)))
    require_same_checkpoint(plan)
    # Nodes with disks of their own each hold their part of the run, and what says whose part it is.
    keeps = (launched_local_rank() if is_storage_apart(merged) else rank()) == 0
    with held(output) if keeps else contextlib.nullcontext():
        old_events = event_files(output / "tensorboard")
        session = _begin(merged, plan, t0_s)
        if keeps:
            continue_record(
                output, plan.record, checkpoint=plan.checkpoint, step=session.state.step, old_events=old_events
            )
        barrier()
        require_own_record(output)
        with session.progress:
            _greet(session, merged, plan, host)
            session.stop = signals.request
            signals.begin_training()
            is_done = train(session)
            if not is_done:
                signals.saved()
                session.progress.say(
                    f"stopped after step {session.state.step} of {merged.steps}, as asked, and saved; go on with the "
                    "same command and --checkpoint.resume auto"
                )
        mark("summing up")
        if rank() == 0 and is_done:
            print(write_report(output), flush=True)


def _begin(merged: MergedRun, plan: Plan, t0_s: float) -> Any:
    """The engine as it was when the run stopped, and what goes with it: a `loop.Session`."""
    import dsparse
    from dsparse.data.loader import LoaderState, MicroBatches
    from dsparse.engine.initialize import initialize_dense
    from dsparse.train.cost import EncoderCost
    from dsparse.train.loop import Session
    from dsparse.train.monitor import Monitor
    from dsparse.train.progress import Progress
    from dsparse.train.skips import SkippedSteps

    run = merged.run
    cost = EncoderCost.of_bert(
        plan.model, run.model.preset, seq_length=merged.seq_length, num_sequences=merged.global_batch_size
    )
    with _errors_in_one_line("a DeepSpeed configuration that DeepSpeed takes on this machine"):
        groups = parameter_groups(plan.model)
        if "dynamic_sparsity" in merged.deepspeed:
            engine, *_ = dsparse.initialize(model=plan.model, model_parameters=groups, config=merged.deepspeed)
        else:
            engine = initialize_dense(plan.model, model_parameters=groups, config=merged.deepspeed)
    state = RunState()
    if plan.checkpoint is not None:
        others = f"an earlier one under {plan.checkpoint.parent} may be whole: --checkpoint.resume NAME"
        with _errors_in_one_line(f"checkpoint {plan.checkpoint} to be whole ({others})"):
            _, client_state = engine.load_checkpoint(str(plan.checkpoint.parent), tag=plan.checkpoint.name)
        state = RunState.from_client_state(client_state or {}, plan.checkpoint)
    elif engine.lr_scheduler is not None:
        # DeepSpeed's schedulers begin one step before the first, with a rate of 0 for each of the two.
        engine.lr_scheduler.step()
    batches = MicroBatches(
        plan.train,
        micro_batch_size=merged.micro_batch_size,
        rank=rank(),
        world_size=launched_world_size(),
        gradient_accumulation_steps=merged.gradient_accumulation_steps,
        num_workers=run.data.num_workers,
        state=None if state.loader is None else LoaderState.from_dict(state.loader),
    )
    progress = Progress(speaks=rank() == 0, first_step=state.step, last_step=merged.last_step)
    return Session(
        merged=merged,
        engine=engine,
        batches=iter(batches),
        heldout=plan.heldout,
        cost=cost,
        state=state,
        monitor=Monitor(engine, merged.output, pattern_every=run.monitor.pattern_every),
        record=plan.record,
        progress=progress,
        skips=SkippedSteps(run.train.max_skipped_steps, merged.output / CHECKPOINTS, progress.say),
        t0_s=t0_s - state.wall_s,
    )


def _greet(session: Any, merged: MergedRun, plan: Plan, host: str) -> None:
    run, say = merged.run, session.progress.say
    say(host)
    say(
        f"bert-{run.model.preset}: {merged.steps} steps of {merged.global_batch_size} x {merged.seq_length} "
        f"tokens ({launched_world_size()} ranks x {merged.micro_batch_size} x {merged.gradient_accumulation_steps} "
        f"accumulated), {plan.num_parameters:,} parameters, results in {run.output}"
    )
    if getattr(session.engine, "kernels", None):
        say(f"packed weights, computed by: {', '.join(session.engine.kernels)}")
    if plan.checkpoint is not None:
        say(f"going on from {plan.checkpoint}, step {session.state.step}")
    elif run.checkpoint.resume == "auto":
        say("no checkpoint yet: beginning at the first step")


@contextlib.contextmanager
def _errors_in_one_line(expected: str) -> Iterator[None]:
    """What DeepSpeed refuses of settings and checkpoints is the user's to mend, whatever class it raises."""
    try:
        yield
    except (UserError, SparsityError):
        raise
    except Exception as error:
        raise UserError(f"Expected {expected}. Got: {type(error).__name__}: {error} (--debug shows where)") from error


@contextlib.contextmanager
def _lost_workers_in_one_line() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        from dsparse.data.workers import find_lost_worker

        lost = find_lost_worker(error)
        if lost is None:
            raise
        raise UserError(
            f"Expected the processes of data.num_workers to live. Got: {lost}. Out of memory? Go on from the last "
            "checkpoint with --checkpoint.resume auto."
        ) from error


@contextlib.contextmanager
def _one_voice() -> Iterator[None]:
    """Lets the first rank of the machine say what all ranks have found.

    The launcher ends the others as soon as one exits, so they leave it the time to speak first, and speak up
    themselves if it did not.
    """
    try:
        yield
    except (UserError, SparsityError, OSError) as error:
        if launched_local_rank() > 0:
            time.sleep(_SECONDS_FOR_THE_FIRST_RANK)
        if isinstance(error, SparsityError):
            raise UserError(str(error)) from error
        raise


@contextlib.contextmanager
def _silent_unless_first() -> Iterator[None]:
    if launched_rank() == 0:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
