"""Run one job: from a slice file given by Snakemake, or from a slice that a command prepares."""

import argparse
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from cogtune.errors import UserError
from cogtune.runtime import slurm
from cogtune.runtime.locks import HeldError
from cogtune.runtime.log import append_note, log_of_all_starts, log_to_file
from cogtune.runtime.stopping import Stopped, ignore_sigterm, stop_on_sigterm
from cogtune.work.slices import Slice, read_slice
from cogtune.work.stages import STAGES

Prepare = Callable[[argparse.Namespace, Sequence[str]], tuple[Slice, Path, Path]]
"""Returns (slice, receipt, store)."""

_log = logging.getLogger(__name__)


def run_job(arguments: argparse.Namespace, overrides: Sequence[str], prepare: Prepare) -> int:
    """Run the job of ``--slice``, or the one that ``prepare`` returns; return the exit code. Raises UserError, and Stopped
    after SIGTERM: under Slurm the job has requeued itself then, if Slurm takes its machine. Under Slurm it also requeues
    itself, and raises Stopped, if a live process holds the lock of its work."""
    by_snakemake = arguments.log and arguments.slice
    log: Path | None = log_of_all_starts(arguments.log) if by_snakemake else arguments.log
    with stop_on_sigterm():
        try:
            stage = STAGES.get(arguments.command)  # None: a sweep's report, which is not in the table
            if stage is not None and stage.trains:
                with log_to_file(log) if log else nullcontext():
                    slurm.check_restarts(arguments.max_restarts)
            return _run(arguments, overrides, prepare, log)
        except Stopped as stopped:
            _requeue(stopped, arguments.max_restarts, log)
            raise
        except HeldError as held:
            raise _requeue_behind(held, log) from None


def _run(arguments: argparse.Namespace, overrides: Sequence[str], prepare: Prepare, log: Path | None) -> int:
    from cogtune.stages.execute import execute_logged
    from cogtune.stages.job import Job

    if bool(arguments.slice) != bool(arguments.run):
        raise UserError("--slice and --run must be given together")
    if arguments.slice:
        part, receipt = read_slice(arguments.slice, arguments.run.resolve()), arguments.receipt
        store = arguments.slice.resolve().parent.parent
    else:
        part, receipt, store = prepare(arguments, overrides)
    if part.stage != arguments.command:
        raise UserError(f"{arguments.slice}: is a slice of stage {part.stage!r}; expected {arguments.command!r}")
    cut = arguments.part if "part" in arguments else None
    command = "cogtune " + shlex.join(word for word in sys.argv[1:] if word != "--plain")
    execute_logged(Job(part, store, log, arguments.plain, cut), receipt, command)
    return 0


def _requeue_behind(held: HeldError, log: Path | None) -> BaseException:
    """Let this job wait in the queue for the one that does its work, without GPUs; returns what ends this start."""
    if held.slurm_job is None:
        return UserError(
            f"{held}. It does the same work, and this Slurm job would hold its GPUs idle; run again when it has ended"
        )
    ignore_sigterm()
    with log_to_file(log) if log else nullcontext():
        _log.warning("%s and does the same work: this job is requeued, and starts again when that one has ended", held)
    if (problem := slurm.requeue_behind(held.slurm_job)) is not None:
        return UserError(f"{held}, and does the same work. {problem}; run again when it has ended")
    return Stopped(explained=True)


def _requeue(stopped: Stopped, limit: int, log: Path | None) -> None:
    ignore_sigterm()
    if stopped.by_config:
        return
    message = slurm.requeue_if_taken(stopped.progress, limit)
    if message is None:
        return
    with log_to_file(log) if log else nullcontext():
        _log.warning(message)
    stopped.explained = True
    if stopped.log is not None:
        append_note(stopped.log, message)
