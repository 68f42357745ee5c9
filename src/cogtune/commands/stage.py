"""`cogtune <stage>`: run one job, for Snakemake or by hand. Both use the same slices, so they share results."""

import argparse
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from cogtune.commands import sample
from cogtune.commands.job import run_job
from cogtune.commands.options import Subcommands, add_job, add_part, add_ranks
from cogtune.config.errors import ConfigError
from cogtune.errors import UserError
from cogtune.runtime.paths import check_name, quoted
from cogtune.work.experiment import BY_HAND, Experiment
from cogtune.work.machine_limits import has_gpu, needs_gpu
from cogtune.work.resolve import RunPaths
from cogtune.work.slices import Slice
from cogtune.work.stages import STAGES
from cogtune.work.workspace import Workspace

_log = logging.getLogger(__name__)
_Raw = argparse.RawDescriptionHelpFormatter


def add_to(commands: Subcommands) -> None:
    """A subcommand for each stage."""
    for name, stage in STAGES.items():
        own = name == "sample"
        text = f"{stage.help}; or videos of own prompts" if own else stage.help
        epilog = sample.EPILOG if own else f"example: cogtune {name} --base config/tiny/demo.yaml -- args.seed=7"
        command = commands.add_parser(name, help=text, description=text, epilog=epilog, formatter_class=_Raw)
        source = command.add_mutually_exclusive_group(required=not own)
        source.add_argument(
            "--base",
            nargs="+",
            metavar="FILE",
            help="SAT-style YAML files, later ones override earlier ones; overrides follow `--`",
        )
        add_job(command, source)
        names = "experiment name; results go to results/<name> (default: by-hand)"
        if own:
            sample.add_options(command)
            names += "; with own prompts the name of their page (default: the file's name, or words of the prompt)"
        command.add_argument("--name", default=None if own else BY_HAND, help=names)
        add_ranks(command)
        if stage.parts:
            add_part(command, f"cogtune {name} --base config/tiny/demo.yaml")
        command.set_defaults(run_command=run)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Run the job; returns the exit code. Of ranks that torchrun or DeepSpeed's launcher started, the first runs the job."""
    if arguments.command == "sample":
        if sample.is_wanted(arguments):
            return sample.run(arguments, overrides)
        arguments.name = arguments.name or BY_HAND
    if not STAGES[arguments.command].trains:
        return run_job(arguments, overrides, _prepare)
    from cogtune.train.joined import World, first_rank

    with first_rank(World.from_environment()):
        return run_job(arguments, overrides, _prepare)


def open_workspace(arguments: argparse.Namespace, overrides: Sequence[str]) -> Workspace:
    """The workspace of ``--workflow`` (or of the defaults, if the file does not exist) with the experiment of ``--base``
    as ``--name``."""
    if problem := check_name(arguments.name):
        raise ConfigError(f"--name {quoted(arguments.name)}: {problem}")
    workspace = Workspace.by_hand(arguments.workflow)
    ranks = arguments.ranks or workspace.ranks
    words = ["cogtune", "report", "--base", *arguments.base, "--name", arguments.name, "--ranks", str(ranks)]
    command = shlex.join([*words, "--", *overrides] if overrides else words)
    workspace.experiments[arguments.name] = Experiment(
        arguments.name, tuple(arguments.base), tuple(overrides), ranks, command
    )
    return workspace


def scan_first(workspace: Workspace, name: str, plain: bool = False) -> None:
    """Run the scans of the experiment's chain that have no receipt: all other keys depend on them. A plan uses finished
    scans in the store without writing receipts."""
    from cogtune.stages.execute import execute
    from cogtune.stages.job import Job

    for link in workspace.chain(name):
        resolver = workspace.resolver(link)
        if not resolver.scans or resolver.assumed_clips is not None:
            continue
        receipt = resolver.place.receipt(resolver.scan())
        known = workspace.writes.held and (workspace.store / "scan" / resolver.scan().key / "digests.json").exists()
        if not receipt.exists() and not known:
            resolver.scan().write(workspace.store)
            execute(Job(resolver.scan(), workspace.store, plain=plain), receipt)


def _prepare(arguments: argparse.Namespace, overrides: Sequence[str]) -> tuple[Slice, Path, Path]:
    """(slice, receipt, store) of the requested stage. Runs the scan first, because all keys depend on it.

    Raises UserError with the command to run first if an upstream stage has no receipt.
    """
    workspace = open_workspace(arguments, overrides)
    resolver = workspace.resolver(arguments.name)
    place = resolver.place
    if arguments.command not in resolver.stages:
        raise UserError(f"{arguments.command}: nothing to do: args.mode is inference, which only samples")
    if (problem := needs_gpu(resolver.config.values)) and not has_gpu():
        if STAGES[arguments.command].trains:
            raise UserError(problem)
        _log.warning("%s, or train on another machine; no GPU found on this one", problem)
    workspace.open_store()
    if arguments.command == "scan":
        part = workspace.resolver(arguments.name).scan()
        return part, _receipt(arguments, place, part), workspace.store
    scan_first(workspace, arguments.name, arguments.plain)
    workspace.writes.held = True  # what other stages need is none of this one's business: the store may be read-only
    parts = workspace.slices(arguments.name)
    if arguments.command not in parts:
        raise UserError(f"{arguments.command}: nothing to do: {STAGES[arguments.command].when} is false in this config")
    part = parts[arguments.command]
    bases = " ".join(arguments.base) + (f" -- {' '.join(overrides)}" if overrides else "")
    for name, job in part.volatile.jobs.items():
        if not (place.results / ".receipts" / f"{job.stage}-{job.key}.json").exists():
            first = f"cogtune {name} --base {bases}"
            if name == "load":
                first = f"snakemake --cores all experiment_{workspace.chain(arguments.name)[-2]}"
            raise UserError(f"{arguments.command} needs the result of {job.stage} {job.key}; run first:\n  {first}")
    workspace.writes.release_only(workspace.files_of(part))
    workspace.save_hashes()
    return part, _receipt(arguments, place, part), workspace.store


def _receipt(arguments: argparse.Namespace, place: RunPaths, part: Slice) -> Path:
    if arguments.receipt:
        return arguments.receipt
    if STAGES[part.stage].publishes:
        return place.results / place.experiment / f".published-{part.key}"
    receipt = place.receipt(part)
    return arguments.part.receipt(receipt) if STAGES[part.stage].parts and arguments.part else receipt
