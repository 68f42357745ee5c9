"""`cogtune sweep`: write the report that compares the members of a sweep."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cogtune.commands.job import run_job
from cogtune.commands.options import Subcommands, add_job
from cogtune.errors import UserError
from cogtune.work.slices import Slice
from cogtune.work.workspace import Workspace


def add_to(commands: Subcommands) -> None:
    """The subcommand."""
    text = "compare the members of a sweep in one report, results/<sweep>/report.html"
    epilog = "example: cogtune sweep lr    (after its members; `snakemake sweep_lr` runs them first)"
    command = commands.add_parser("sweep", help=text, description=text, epilog=epilog)
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("name", nargs="?", help="name of a sweep in the workflow config")
    add_job(command, source)
    command.set_defaults(run_command=run)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Run the job; returns the exit code."""
    return run_job(arguments, overrides, _prepare)


def _prepare(arguments: argparse.Namespace, overrides: Sequence[str]) -> tuple[Slice, Path, Path]:
    """(slice, receipt, store) of a sweep's report. Raises UserError if a member is not finished."""
    if overrides:
        raise UserError(f"sweep takes no overrides; set its keys in {arguments.workflow}")
    workspace = Workspace.load(arguments.workflow)
    sweep = workspace.sweeps.get(arguments.name)
    for member in sweep.points if sweep else ():
        if (
            not all(scan.exists() for scan in workspace.scan_receipts(member))
            or not workspace.published(member).exists()
        ):
            raise UserError(f"{member} is not finished; run first:\n  snakemake --cores all sweep_{arguments.name}")
    part = workspace.sweep_slice(arguments.name)
    return part, arguments.receipt or workspace.compared(arguments.name), workspace.store
