"""`cogtune plan`: what would run, why, and what it costs. Runs only the scans, which determine the keys."""

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from cogtune.commands import stage
from cogtune.commands.options import Subcommands, add_ranks, add_workflow, check_known
from cogtune.commands.plan_table import distinct, draw, job_count
from cogtune.config.errors import ConfigError, ConfigErrors
from cogtune.config.paths import WEIGHTS
from cogtune.errors import UserError
from cogtune.plan.counts import Counts
from cogtune.plan.estimate import estimator_of
from cogtune.plan.history import History
from cogtune.plan.survey import Survey, Surveyor
from cogtune.runtime.machines import Machine, machine_of
from cogtune.work.demo_data import needs_demo_data
from cogtune.work.experiment import BY_HAND
from cogtune.work.parts import check_scatter
from cogtune.work.workspace import Workspace

_log = logging.getLogger(__name__)

WIDTH = 100
_LONGEST_COUNT = 9
_WITHOUT_DATA = "\n(to plan without data, assume a number of clips: --clips 100)"


def add_to(commands: Subcommands) -> None:
    """The subcommand."""
    summary = "what would run, why, and what it costs; runs only the scans"
    plan = commands.add_parser(
        "plan", help=summary, description=summary, epilog="example: cogtune plan demo --device H100"
    )
    plan.add_argument(
        "experiments", nargs="*", metavar="EXPERIMENT", help="experiments of the workflow config (default: all)"
    )
    plan.add_argument("--base", nargs="+", metavar="FILE", help="plan one config instead; overrides follow `--`")
    add_workflow(plan, "experiments, store, results")
    plan.add_argument("--format", choices=["table", "json"], default="table")
    plan.add_argument(
        "--device",
        metavar="NAME",
        help="estimate for this GPU (H100, A100, 4090, …), or for any with so much memory (24GB), instead of this machine",
    )
    plan.add_argument(
        "--clips",
        type=_clips,
        metavar="N",
        help="assume N clips instead of reading args.train_data, which need not exist",
    )
    add_ranks(plan)
    plan.add_argument(
        "--parts",
        nargs="+",
        type=_parts,
        default=[],
        metavar="STAGE=N",
        help="plan for jobs that are cut into at most N parts of one device each, as by snakemake --set-scatter "
        "(example: --parts latents=8 sample=8)",
    )
    plan.add_argument("--name", default=BY_HAND, help=f"experiment name for --base (default: {BY_HAND})")
    plan.add_argument("--plain", action="store_true", help="print progress as lines")
    plan.set_defaults(run_command=run)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Plan one config, or experiments of the workflow config, with ``overrides`` applied. Weights may be missing."""
    if arguments.base:
        workspace = stage.open_workspace(arguments, overrides)
        arguments.experiments = [arguments.name]
    else:
        workspace = Workspace.load(arguments.workflow)
        if arguments.clips is None and needs_demo_data(workspace, chosen(workspace, arguments.experiments)):
            make_demo_data()
        for name, known in workspace.experiments.items():
            ranks = arguments.ranks or known.ranks
            workspace.experiments[name] = replace(
                known, set=(*known.set, *overrides), typed=len(overrides), ranks=ranks
            )
    workspace.may_miss = frozenset({WEIGHTS})
    workspace.writes.held = True
    return show(arguments, workspace, lambda space, name: stage.scan_first(space, name, arguments.plain))


def _parts(text: str) -> tuple[str, int]:
    stage, _, count = text.partition("=")
    number = int(count) if count.isascii() and count.isdecimal() and len(count) < _LONGEST_COUNT else 0
    try:
        check_scatter("--parts", {stage: number})
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("--parts ")) from None
    return stage, number


def _clips(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > _LONGEST_COUNT or not int(text):
        raise argparse.ArgumentTypeError(f"expected a number of clips from 1; found {text!r}")
    return int(text)


def make_demo_data() -> None:
    """Create the demo's data as the Snakefile does: planning needs the clips."""
    if subprocess.run([sys.executable, "demo/make_data.py"], stdout=sys.stderr).returncode:
        raise UserError("demo/make_data.py failed; see its output above")


def show(arguments: argparse.Namespace, workspace: Workspace, scan: Callable[[Workspace, str], None]) -> int:
    """Print the plan of ``arguments.experiments``, or of all; returns the exit code.

    ``scan`` runs the missing scans of an experiment. Experiments that cannot be planned are reported last, with exit
    code 1.
    """
    names = chosen(workspace, arguments.experiments)
    assumed: int | None = arguments.clips
    if assumed is not None:
        workspace.assumed_clips = dict.fromkeys(names, assumed)
    machine = machine_of(arguments.device, max(workspace.experiments[name].ranks for name in names))
    surveys, failed = survey_all(workspace, names, machine, scan, dict(arguments.parts))
    if arguments.format == "json":
        print(json.dumps(as_dict(surveys, machine, failed), indent=2, ensure_ascii=False))
    else:
        from rich.console import Console

        console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
        if surveys or not failed:  # without any plan, "nothing to do" would be wrong
            draw(surveys, machine, console)
    for name, error in failed.items():
        hint = _WITHOUT_DATA if _lacks_data(error) else ""
        _log.error("cogtune: cannot plan %s: %s%s", name, error, hint)
    return 1 if failed else 0


def _lacks_data(error: UserError) -> bool:
    errors = error.errors if isinstance(error, ConfigErrors) else [error]
    return all(isinstance(one, ConfigError) and one.key.startswith("args.train_data") for one in errors)


def _waiting(text: str) -> AbstractContextManager[object]:
    """A spinner on a terminal: reading the state of a million clips takes seconds."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)


def survey_all(
    workspace: Workspace,
    names: Iterable[str],
    machine: Machine,
    scan: Callable[[Workspace, str], None],
    parts: Mapping[str, int] | None = None,
) -> tuple[list[Survey], dict[str, UserError]]:
    """Surveys, each after the experiments that it starts from; and the errors, by experiment."""
    history = History(workspace.store, workspace.results)
    surveyor = Surveyor(workspace, history, Counts(history), parts or {})
    workspace.writes.held = True
    requested, surveys = list(names), dict[str, Survey]()
    failed: dict[str, UserError] = {}
    for name in requested:
        try:
            with _waiting("listing the data"):
                workspace.scan_receipts(name)
            for link in workspace.chain(name):
                scan(workspace, link)  # all scans first: a parent's purpose is known only after its child's scan
            for link in workspace.chain(name):
                if link not in surveys:
                    with _waiting("looking at what the store holds"):
                        estimator = estimator_of(workspace, link, machine, history)
                        surveys[link] = surveyor.survey(link, estimator, None if link in requested else name)
        except UserError as error:
            failed[name] = error
    workspace.save_hashes()
    return list(surveys.values()), failed


def chosen(workspace: Workspace, wanted: Sequence[str]) -> list[str]:
    """The requested experiments, or all. Raises UserError for an unknown name."""
    for name in wanted:
        check_known(name, list(workspace.experiments))
    return list(wanted) or list(workspace.experiments)


def as_dict(surveys: Sequence[Survey], machine: Machine, failed: dict[str, UserError]) -> dict[str, Any]:
    """The plan as JSON data."""
    steps = distinct(surveys)
    known = [step.estimate for step in steps if step.estimate]
    return {
        "experiments": [survey.to_dict() for survey in surveys],
        "total": {
            "jobs": job_count(steps),
            "seconds": sum(max(1, one.parts) * (one.seconds or 0.0) for one in known),
            "disk": sum(one.disk for one in known),
            "memory": max((one.memory for one in known), default=0.0),
            "devices": max((one.devices for one in known), default=0),
        },
        "device": {"name": machine.device.name, "count": machine.count, "memory": machine.device.memory},
        "failed": {name: str(error) for name, error in failed.items()},
    }
