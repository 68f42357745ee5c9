"""Run one job: from a slice file given by Snakemake, or from a slice that a command prepares."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cogtune.errors import UserError
from cogtune.work.slices import Slice, read_slice

Prepare = Callable[[argparse.Namespace, Sequence[str]], tuple[Slice, Path, Path]]
"""Returns (slice, receipt, store)."""


def run_job(arguments: argparse.Namespace, overrides: Sequence[str], prepare: Prepare) -> int:
    """Run the job of ``--slice``, or the one that ``prepare`` returns; return the exit code. Raises UserError."""
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
