"""The same jobs without Snakemake: `cogtune <stage> --base …` cuts the same slices, so either finds the other's work."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cogtune.config.slices import Slice
from cogtune.config.stages import STAGES
from cogtune.errors import UserError
from cogtune.plan.experiment import Experiment
from cogtune.plan.experiments import Workspace


def prepare(arguments: argparse.Namespace, overrides: Sequence[str]) -> tuple[Slice, Path, Path]:
    """(slice, receipt, store) of the stage asked for. Scans inline, since keys are known only after it.

    Raises UserError with the command to run first when an upstream stage has not left its receipt.
    """
    from cogtune.stages.execute import execute
    from cogtune.stages.job import Job

    workspace = Workspace.by_hand(arguments.workflow)
    ranks = arguments.ranks or max((known.ranks for known in workspace.experiments.values()), default=1)
    workspace.experiments[arguments.name] = Experiment(arguments.name, tuple(arguments.base), tuple(overrides), ranks)
    place = workspace.resolver(arguments.name).place
    if arguments.command == "scan":
        part = workspace.resolver(arguments.name).scan()
        return part, _receipt(arguments, place, part), workspace.store
    for link in workspace.chain(arguments.name):
        scan = workspace.resolver(link).scan()
        if not place.receipt(scan).exists():
            execute(Job(scan, workspace.store, plain=arguments.plain), place.receipt(scan))
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
