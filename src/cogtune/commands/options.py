"""Options shared by several subcommands."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cogtune.config.key_types import nearest
from cogtune.config.schema.common import RANKS
from cogtune.errors import UserError
from cogtune.runtime.paths import quoted
from cogtune.runtime.slurm import MAX_RESTARTS
from cogtune.work.parts import Part, read_part

Subcommands = argparse._SubParsersAction


def add_workflow(command: argparse.ArgumentParser, what: str) -> None:
    """Add ``--workflow``; ``what``: the parts that the command uses."""
    command.add_argument(
        "--workflow",
        type=_existing_file,
        default=Path("config/config.yaml"),
        metavar="FILE",
        help=f"workflow config: {what} (default: config/config.yaml)",
    )


def _existing_file(text: str) -> Path:
    """A path that is given must exist: with the defaults in its place, `store gc` would work on another store."""
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"{text}: no such file")
    return Path(text)


def add_ranks(command: argparse.ArgumentParser) -> None:
    """Add ``--ranks``."""
    command.add_argument(
        "--ranks",
        type=_ranks,
        metavar="N",
        help="number of training processes (default: from --workflow; if not set there: GPUs found, else 1)",
    )


def add_job(command: argparse.ArgumentParser, source: argparse._MutuallyExclusiveGroup) -> None:
    """Add the options that Snakemake passes to a job."""
    source.add_argument("--slice", type=Path, metavar="FILE", help="slice file written by Snakemake's main process")
    command.add_argument("--run", type=Path, metavar="FILE", help="with --slice: run file, results/.runs/….json")
    command.add_argument(
        "--receipt", type=Path, metavar="FILE", help="path of the receipt (default: where Snakemake expects it)"
    )
    command.add_argument("--log", type=Path, metavar="FILE", help="also write the output to this file")
    command.add_argument("--plain", action="store_true", help="print progress as lines, for logs and parallel jobs")
    command.add_argument(
        "--max-restarts",
        type=_count,
        default=MAX_RESTARTS,
        metavar="N",
        help=f"Slurm: a stopped job requeues itself at most N times (default: {MAX_RESTARTS})",
    )
    add_workflow(command, "store, results, other experiments")


def add_part(command: argparse.ArgumentParser, example: str) -> None:
    """Add ``--part``. ``example``: the rest of a command line."""
    command.add_argument(
        "--part",
        type=_part,
        metavar="I-of-N",
        help=f"make only this part of the rows, on one device: run all N parts, on any machines that share the store and "
        f"at the same time, then this command without --part (example: {example} --part 2-of-8)",
    )


def check_known(name: str, names: Sequence[str]) -> None:
    """Raise UserError unless ``name`` is one of the workflow config's ``names``; it names the nearest one."""
    if name in names:
        return
    near = nearest(name, names)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"expected one of {', '.join(names)};"
    raise UserError(f"unknown experiment {name!r}; {hint} `cogtune new {quoted(name)[1:-1]} --data FOLDER` adds one")


def _part(text: str) -> Part:
    try:
        return read_part(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _ranks(text: str) -> int:
    if not text.isdecimal() or int(text) not in RANKS:
        raise argparse.ArgumentTypeError(f"expected an integer from {RANKS}; found {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected an integer from 0; found {text!r}")
    return int(text)
