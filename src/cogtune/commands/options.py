"""Options that several subcommands share."""

import argparse
from pathlib import Path

from cogtune.config.schema.common import RANKS

Subcommands = argparse._SubParsersAction


def add_workflow(command: argparse.ArgumentParser, what: str) -> None:
    """``--workflow``; ``what`` of it the command uses."""
    command.add_argument(
        "--workflow",
        type=Path,
        default=Path("config/config.yaml"),
        metavar="FILE",
        help=f"workflow config: {what} (default: config/config.yaml)",
    )


def add_ranks(command: argparse.ArgumentParser) -> None:
    """``--ranks``."""
    command.add_argument(
        "--ranks", type=_ranks, metavar="N", help="processes that train together (default: from --workflow)"
    )


def add_job(command: argparse.ArgumentParser, source: argparse._MutuallyExclusiveGroup) -> None:
    """What Snakemake gives a job, and where it reports."""
    source.add_argument("--slice", type=Path, metavar="FILE", help="a slice that Snakemake's main process wrote")
    command.add_argument(
        "--run", type=Path, metavar="FILE", help="with --slice: results/.runs/….json, what the run tells its jobs"
    )
    command.add_argument(
        "--receipt", type=Path, metavar="FILE", help="where to write the receipt (default: where Snakemake looks)"
    )
    command.add_argument("--log", type=Path, metavar="FILE", help="also write everything printed here")
    command.add_argument("--plain", action="store_true", help="progress as lines, for logs and parallel jobs")
    add_workflow(command, "store, results, other experiments")


def _ranks(text: str) -> int:
    if not text.isdecimal() or int(text) not in RANKS:
        raise argparse.ArgumentTypeError(f"expected an integer from {RANKS}; found {text!r}")
    return int(text)
