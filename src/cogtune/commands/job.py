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
from cogtune.runtime.log import append_note, log_to_file
from cogtune.runtime.stopping import Stopped, ignore_sigterm, stop_on_sigterm
from cogtune.work.slices import Slice, read_slice

Prepare = Callable[[argparse.Namespace, Sequence[str]], tuple[Slice, Path, Path]]
"""Returns (slice, receipt, store)."""

_log = logging.getLogger(__name__)


def run_job(arguments: argparse.Namespace, overrides: Sequence[str], prepare: Prepare) -> int:
    """Run the job of ``--slice``, or the one that ``prepare`` returns; return the exit code. Raises UserError, and Stopped
    after SIGTERM: under Slurm the job has requeued itself then, if Slurm takes its machine."""
    with stop_on_sigterm():
        try:
            return _run(arguments, overrides, prepare)
        except Stopped as stopped:
            _requeue(stopped, arguments.max_restarts, arguments.log)
            raise


def _run(arguments: argparse.Namespace, overrides: Sequence[str], prepare: Prepare) -> int:
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
    command = "cogtune " + shlex.join(word for word in sys.argv[1:] if word != "--plain")
    execute_logged(Job(part, store, arguments.log, arguments.plain), receipt, command)
    return 0


def _requeue(stopped: Stopped, limit: int, log: Path | None) -> None:
    ignore_sigterm()
    message = slurm.requeue_if_taken(stopped.progress, limit)
    if message is None:
        return
    with log_to_file(log) if log else nullcontext():
        _log.warning(message)
    if stopped.log is not None:
        append_note(stopped.log, message)
