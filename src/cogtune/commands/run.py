"""`cogtune run NAME`: Snakemake with the target of one experiment or sweep. It does nothing of its own."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from cogtune.commands.options import Subcommands, check_known
from cogtune.errors import UserError
from cogtune.work.workspace import Workspace

_CONFIG = Path("config/config.yaml")
"""The Snakefile reads this one, so there is no option for another."""


def add_to(commands: Subcommands) -> None:
    """The subcommand."""
    summary = "run an experiment or a sweep: snakemake --cores all experiment_NAME"
    command = commands.add_parser(
        "run",
        help=summary,
        description=f"{summary}. Options that follow are Snakemake's.",
        epilog="examples: cogtune run mine -n    cogtune run mine --cores 8 --retries 2",
    )
    command.add_argument("name", metavar="NAME", help="an experiment or a sweep of config/config.yaml")
    command.add_argument(
        "options", nargs=argparse.REMAINDER, metavar="…", help="options of Snakemake (default: --cores all)"
    )
    command.set_defaults(run_command=run)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Replace this process by Snakemake. Raises UserError for an unknown name."""
    if overrides:
        raise UserError(
            f"run takes no config values; found {shlex.join(overrides)} after `--`. Set them in {_CONFIG}, "
            f"experiments.{arguments.name}.set"
        )
    if not Path("Snakefile").is_file():
        raise UserError(f"no Snakefile in {Path.cwd()}; run this command in your clone of cogtune")
    if find_spec("snakemake") is None:
        raise UserError(
            "Snakemake is not installed in this environment; run `make setup`, or pip install cogtune again"
        )
    target = target_of(Workspace.load(_CONFIG), arguments.name)
    refuse_own_options(arguments.options)
    words = command_line(target, arguments.options)
    print(shlex.join(["snakemake", *words]), file=sys.stderr, flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "snakemake", *words])


def target_of(workspace: Workspace, name: str) -> str:
    """The target of the Snakefile. Raises UserError for an unknown name, with the nearest one."""
    if name in workspace.sweeps:
        return f"sweep_{name}"
    check_known(name, [*workspace.experiments, *workspace.sweeps])
    return f"experiment_{name}"


def refuse_own_options(options: Sequence[str]) -> None:
    """Raise UserError for an option of another command of cogtune that Snakemake does not have."""
    from cogtune.commands.parser import build_parser
    from cogtune.commands.suggestions import commands_with

    parser = build_parser()
    names = {option.partition("=")[0] for option in options if option.startswith("--")}
    owners = {name: commands_with(parser, name) for name in sorted(names)}
    suspects = {name: commands for name, commands in owners.items() if commands}
    if not suspects:
        return
    # Some options have one name in both. Asking takes a second, so it is not done for options that only Snakemake can have.
    usage = subprocess.run([sys.executable, "-m", "snakemake", "--help"], capture_output=True, text=True, check=False)
    for name, commands in suspects.items():
        if usage.returncode == 0 and not re.search(rf"(?<![\w-]){name}(?![\w-])", usage.stdout):
            listed = ", ".join(f"cogtune {command}" for command in commands)
            raise UserError(
                f"{name}: cogtune run passes options to Snakemake, which has no {name}; it belongs to {listed}"
            )


def command_line(target: str, options: Sequence[str]) -> list[str]:
    """Snakemake's arguments: all cores unless ``options`` say how many, or that nothing is run or where jobs go."""
    decided = ("-c", "--cores", "--profile", "--workflow-profile", "-j", "--jobs", "-n", "--dry-run", "--dryrun")
    names = {option.partition("=")[0] for option in options}
    joined = any(option[:2] in ("-c", "-j") and option[2:].isdecimal() for option in options)  # -c8
    cores = [] if joined or names & set(decided) else ["--cores", "all"]
    # The target goes first: --config and other options of Snakemake take all words that follow.
    return [target, *cores, *options]
