"""`cogtune plan`: what would run, why, and what it costs. Nothing is computed but the scans, which decide the keys."""

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from cogtune.commands import stage
from cogtune.commands.options import Subcommands, add_ranks, add_workflow
from cogtune.commands.plan_table import distinct, draw
from cogtune.errors import UserError
from cogtune.plan.counts import Counts
from cogtune.plan.estimate import estimator_of
from cogtune.plan.history import History
from cogtune.plan.survey import Survey, Surveyor
from cogtune.runtime.machines import Machine, machine_of
from cogtune.work.workspace import Workspace

_log = logging.getLogger(__name__)

WIDTH = 100


def add_to(commands: Subcommands) -> None:
    """The subcommand."""
    told = "what would run, why, and what it costs; runs nothing but the scans"
    plan = commands.add_parser("plan", help=told, description=told, epilog="example: cogtune plan demo --device H100")
    plan.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="of the workflow config (default: all)")
    plan.add_argument(
        "--base", nargs="+", metavar="FILE", help="plan one config instead; overrides follow `--` in either case"
    )
    add_workflow(plan, "experiments, store, results")
    plan.add_argument("--format", choices=["table", "json"], default="table")
    plan.add_argument(
        "--device", metavar="NAME", help="estimate for this GPU (H100, A100, 4090, …), not for this machine"
    )
    add_ranks(plan)
    plan.add_argument("--name", default="by-hand", help="with --base: experiment name (default: by-hand)")
    plan.add_argument("--plain", action="store_true", help="progress of a scan as lines")
    plan.set_defaults(run_command=run)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """`cogtune plan`: of one config, or of the experiments of the workflow's, all with ``overrides`` on top."""
    if arguments.base:
        workspace = stage.open_workspace(arguments, overrides)
        arguments.experiments = [arguments.name]
    else:
        workspace = Workspace.load(arguments.workflow)
        make_demo_data(workspace)
        for name, known in workspace.experiments.items():
            ranks = arguments.ranks or known.ranks
            workspace.experiments[name] = replace(known, set=(*known.set, *overrides), ranks=ranks)
    return show(arguments, workspace, lambda space, name: stage.scan_first(space, name, arguments.plain))


def make_demo_data(workspace: Workspace) -> None:
    """What the Snakefile does first where ``demo_data`` is set: nothing can be planned without clips."""
    if workspace.demo_data and subprocess.run([sys.executable, "demo/make_data.py"], stdout=sys.stderr).returncode:
        raise UserError("demo/make_data.py failed; see above")


def show(arguments: argparse.Namespace, workspace: Workspace, scan: Callable[[Workspace, str], None]) -> int:
    """Print the plan of ``arguments.experiments``, or of all; returns the exit code.

    ``scan`` runs the scans that an experiment still lacks. An experiment that cannot be planned is told last, and the
    exit code is then 1.
    """
    names = chosen(workspace, arguments.experiments)
    machine = machine_of(arguments.device, max(workspace.experiments[name].ranks for name in names))
    surveys, failed = survey_all(workspace, names, machine, scan)
    if arguments.format == "json":
        print(json.dumps(as_dict(surveys, machine, failed), indent=2, ensure_ascii=False))
    else:
        from rich.console import Console

        console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
        if surveys or not failed:  # "nothing to do" is said only of what could be planned
            draw(surveys, machine, console)
    for name, error in failed.items():
        _log.error("cogtune: %s cannot be planned: %s", name, error)
    return 1 if failed else 0


def _waiting(text: str) -> AbstractContextManager[object]:
    """A sign of life on a terminal: what a million clips have left takes seconds to read."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)


def survey_all(
    workspace: Workspace, names: Iterable[str], machine: Machine, scan: Callable[[Workspace, str], None]
) -> tuple[list[Survey], dict[str, UserError]]:
    """Surveys in order, after the experiments that they start from; and what went wrong, by experiment."""
    history = History(workspace.store, workspace.results)
    surveyor = Surveyor(workspace, history, Counts(history))
    workspace.writes.held = True
    asked, surveys = list(names), dict[str, Survey]()
    failed: dict[str, UserError] = {}
    for name in asked:
        try:
            with _waiting("listing the data"):
                workspace.scan_receipts(name)
            for link in workspace.chain(name):
                scan(workspace, link)  # all of them first: what a parent is wanted for is known after its child's scan
            for link in workspace.chain(name):
                if link not in surveys:
                    with _waiting("looking at what the store holds"):
                        estimator = estimator_of(workspace, link, machine, history)
                        surveys[link] = surveyor.survey(link, estimator, None if link in asked else name)
        except UserError as error:
            failed[name] = error
    workspace.save_hashes()
    return list(surveys.values()), failed


def chosen(workspace: Workspace, wanted: Sequence[str]) -> list[str]:
    """The experiments asked for. Raises UserError for a name that does not exist."""
    for name in wanted:
        if name not in workspace.experiments:
            raise UserError(f"no experiment named {name!r}; there are: {', '.join(workspace.experiments)}")
    return list(wanted) or list(workspace.experiments)


def as_dict(surveys: Sequence[Survey], machine: Machine, failed: dict[str, UserError]) -> dict[str, Any]:
    """For JSON."""
    steps = distinct(surveys)
    known = [step.estimate for step in steps if step.estimate]
    return {
        "experiments": [survey.to_dict() for survey in surveys],
        "total": {
            "jobs": len(steps),
            "seconds": sum(one.seconds or 0.0 for one in known),
            "disk": sum(one.disk for one in known),
            "memory": max((one.memory for one in known), default=0.0),
            "devices": max((one.devices for one in known), default=0),
        },
        "device": {"name": machine.device.name, "count": machine.count, "memory": machine.device.memory},
        "failed": {name: str(error) for name, error in failed.items()},
    }
