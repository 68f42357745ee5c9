"""The same jobs without Snakemake: `cogtune <stage> --base …` cuts the same slices, so either finds the other's work."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cogtune.config.errors import ConfigError
from cogtune.errors import UserError
from cogtune.runtime.paths import check_name, shown
from cogtune.work.experiment import Experiment
from cogtune.work.machine_limits import has_gpu, needs_gpu
from cogtune.work.slices import Slice
from cogtune.work.stages import STAGES
from cogtune.work.workspace import Workspace


def open_workspace(arguments: argparse.Namespace, overrides: Sequence[str]) -> Workspace:
    """The workspace of ``--workflow`` (of the defaults, if there is no such file) with the experiment that ``--base``
    describes, under ``--name``."""
    if problem := check_name(arguments.name):
        raise ConfigError(f"--name {shown(arguments.name)}: {problem}")
    workspace = Workspace.by_hand(arguments.workflow)
    ranks = arguments.ranks or max((known.ranks for known in workspace.experiments.values()), default=1)
    workspace.experiments[arguments.name] = Experiment(arguments.name, tuple(arguments.base), tuple(overrides), ranks)
    return workspace


def scan_first(workspace: Workspace, name: str, plain: bool = False) -> None:
    """Run the scans of the experiment's chain that have no receipt: every other key is known only after them. A plan does
    with what the store holds of them, and writes nothing then."""
    from cogtune.stages.execute import execute
    from cogtune.stages.job import Job

    for link in workspace.chain(name):
        resolver = workspace.resolver(link)
        if not resolver.scans:
            continue
        receipt = resolver.place.receipt(resolver.scan())
        known = workspace.looks_only and (workspace.store / "scan" / resolver.scan().key / "digests.json").exists()
        if not receipt.exists() and not known:
            resolver.scan().write(workspace.store)
            execute(Job(resolver.scan(), workspace.store, plain=plain), receipt)


def plan(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """`cogtune plan`: of one config, or of the experiments of the workflow's, all with ``overrides`` on top."""
    from cogtune.commands import plan as plan_command

    if arguments.base:
        workspace = open_workspace(arguments, overrides)
        arguments.experiments = [arguments.name]
    else:
        workspace = Workspace.load(arguments.workflow)
        make_demo_data(workspace)
        for name, known in workspace.experiments.items():
            ranks = arguments.ranks or known.ranks
            workspace.experiments[name] = replace(known, set=(*known.set, *overrides), ranks=ranks)
    return plan_command.run(arguments, workspace, lambda space, name: scan_first(space, name, arguments.plain))


def make_demo_data(workspace: Workspace) -> None:
    """What the Snakefile does first where ``demo_data`` is set: nothing can be planned without clips."""
    if workspace.demo_data and subprocess.run([sys.executable, "demo/make_data.py"], stdout=sys.stderr).returncode:
        raise UserError("demo/make_data.py failed; see above")


def prepare(arguments: argparse.Namespace, overrides: Sequence[str]) -> tuple[Slice, Path, Path]:
    """(slice, receipt, store) of the stage asked for. Scans inline, since keys are known only after it.

    Raises UserError with the command to run first when an upstream stage has not left its receipt.
    """
    workspace = open_workspace(arguments, overrides)
    resolver = workspace.resolver(arguments.name)
    place = resolver.place
    if arguments.command not in resolver.stages:
        raise UserError(f"{arguments.command}: nothing to do, because args.mode is inference, which only samples")
    if (problem := needs_gpu(resolver.config.values)) and not has_gpu():
        if arguments.command == "train":
            raise UserError(problem)
        print(f"note: {problem}, or train on another machine; this one has no GPU", file=sys.stderr)
    if arguments.command == "scan":
        part = workspace.resolver(arguments.name).scan()
        return part, _receipt(arguments, place, part), workspace.store
    scan_first(workspace, arguments.name, arguments.plain)
    parts = workspace.slices(arguments.name)
    if arguments.command not in parts:
        raise UserError(
            f"{arguments.command}: nothing to do, because {STAGES[arguments.command].when} is false in this config"
        )
    part = parts[arguments.command]
    bases = " ".join(arguments.base) + (f" -- {' '.join(overrides)}" if overrides else "")
    for name, job in part.volatile["jobs"].items():
        if not (place.results / ".receipts" / f"{job['stage']}-{job['key']}.json").exists():
            first = f"cogtune {name} --base {bases}"
            if name == "load":
                first = f"snakemake --cores all experiment_{workspace.chain(arguments.name)[-2]}"
            raise UserError(
                f"{arguments.command} needs the result of {job['stage']} {job['key']}; run first:\n  {first}"
            )
    return part, _receipt(arguments, place, part), workspace.store


def prepare_sweep(arguments: argparse.Namespace, overrides: Sequence[str]) -> tuple[Slice, Path, Path]:
    """(slice, receipt, store) of a sweep's report. Raises UserError when a member is not done."""
    if overrides:
        raise UserError(f"a sweep takes no overrides; its keys stand in {arguments.workflow}")
    workspace = Workspace.load(arguments.workflow)
    sweep = workspace.sweeps.get(arguments.name)
    for member in sweep.points if sweep else ():
        if (
            not all(scan.exists() for scan in workspace.scan_receipts(member))
            or not workspace.published(member).exists()
        ):
            raise UserError(f"{member} is not done; run first:\n  snakemake --cores all sweep_{arguments.name}")
    part = workspace.sweep_slice(arguments.name)
    return part, arguments.receipt or workspace.compared(arguments.name), workspace.store


def _receipt(arguments: argparse.Namespace, place, part: Slice) -> Path:
    if arguments.receipt:
        return arguments.receipt
    if part.stage == "report":
        return place.results / place.experiment / f".published-{part.key}"
    return place.receipt(part)
