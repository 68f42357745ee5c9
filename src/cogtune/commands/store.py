"""`cogtune store`: list the store, and remove entries so that Snakemake recomputes them."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from cogtune.commands import store_gc
from cogtune.commands.options import Subcommands, add_workflow
from cogtune.commands.receipts import jobs_in, remove_receipts
from cogtune.errors import UserError
from cogtune.runtime.paths import check_removable, key_folder, remove_folder
from cogtune.runtime.reservations import hold_alone
from cogtune.runtime.shared import let_group_write
from cogtune.work.records import read_record
from cogtune.work.stages import STAGES
from cogtune.work.workflow_config import workflow_values

_EXAMPLES = """examples:
  cogtune store list                              all folders, with sizes
  cogtune store drop 0123456789ab                 remove a folder and the receipts that depend on it
  cogtune store verify --repair                   check every file, and remove what is damaged
  cogtune store gc                                what no results folder needs; removes nothing without --yes
`cogtune store ACTION --help` describes each."""
_LIST = """examples:
  cogtune store list
  cogtune store list --store /shared/store"""
_DROP = """examples:
  cogtune store drop 0123456789ab
  cogtune store drop 0123456789ab --results /home/me/run/results
The next `snakemake` computes the folder again, and reuses everything else."""
_VERIFY = """examples:
  cogtune store verify                            the whole store
  cogtune store verify 0123456789ab               one folder or job
  cogtune store verify --repair                   also remove what is damaged, and the receipts that depend on it
Exit code 1 if damage is left."""
_GC = """examples:
  cogtune store gc                                print the size of what is removable, and remove nothing
  cogtune store gc -v                             also each entry, and why it is kept
  cogtune store gc --older-than 2w --yes          remove what nobody needs and nobody changed for two weeks"""
_RAW = argparse.RawDescriptionHelpFormatter


def add_to(commands: Subcommands) -> None:
    """The subcommand and its actions."""
    text = "list the store, remove a key, verify checksums, remove what nobody needs"
    store = commands.add_parser("store", help=text, description=text, epilog=_EXAMPLES, formatter_class=_RAW)
    store.set_defaults(run_command=run)
    actions = store.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_action(actions, "list", "list the folders of the store with their sizes", _LIST)
    text = "remove the folder of a key and the receipts that depend on it, so that the next run computes it again"
    drop = _add_action(actions, "drop", text, _DROP)
    drop.add_argument("key", help="12 hex digits: the name of the folder")
    verify = _add_action(actions, "verify", "verify the checksums of the files and rows of the store", _VERIFY)
    verify.add_argument("key", nargs="?", help="12 hex digits: the name of a folder or of a job (default: all)")
    verify.add_argument("--repair", action="store_true", help="remove damaged data; the next run recomputes it")
    text = "remove what no results folder that uses the store needs; without --yes, only print it"
    store_gc.add_options(_add_action(actions, "gc", text, _GC))


def _add_action(actions: Subcommands, name: str, text: str, examples: str) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=text, description=text, epilog=examples, formatter_class=_RAW)
    action.add_argument("--store", type=Path, metavar="DIR", help="default: store_dir of --workflow")
    action.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="results folder with the receipts (default: results_dir of --workflow)",
    )
    add_workflow(action, "store_dir, results_dir")
    return action


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """`cogtune store list`, `drop KEY`, `verify` and `gc`; returns the exit code. Raises UserError."""
    if overrides:
        raise UserError(f"store takes no overrides; found {' '.join(overrides)} after `--`")
    store, results = _places(arguments)
    if arguments.action == "verify":
        from cogtune.commands import store_verify

        return store_verify.run(store, arguments.key, arguments.repair, results)
    if not store.is_dir():
        raise UserError(f"{store}: no such store; set it with --store DIR")
    if arguments.action == "gc":
        return store_gc.run(store, results, arguments)
    if arguments.action == "list":
        _print_table(store)
        return 0
    for path in drop(store, arguments.key, results):
        print(f"removed {path}")
    return 0


def _places(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Store and results folder: from the options, the workflow config, or the defaults."""
    values = workflow_values(arguments.workflow if arguments.workflow.exists() else None, {})
    store = arguments.store or values.store_dir
    let_group_write(store)
    return store, arguments.results or values.results_dir


def drop(store: Path, key: str, results: Path) -> list[Path]:
    """Remove the folders named ``key``, and all receipts that depend on them; return the removed paths.

    Raises UserError, before removing anything, unless ``key`` is 12 hex digits and names real folders of the store:
    symbolic links are not followed.

    Snakemake does not recreate a missing receipt while downstream receipts exist, so the receipts of all downstream
    jobs are removed too. Their data stays and is reused. Receipts are named by job key and item folders by item key, so
    both are looked up in the slices.
    """
    named = [key_folder(store / stage, key, "store drop") for stage in STAGES]
    folders = [folder for folder in named if os.path.lexists(folder)]
    if not folders:
        raise UserError(f"{store}: no entry with key {key}; see `cogtune store list`")
    for folder in folders:
        check_removable(folder, store)
    removed: list[Path] = []
    for folder in folders:
        stage = folder.parent.name
        with hold_alone(store / "locks" / f"{stage}-{key}.lock"):
            remove_folder(folder, store)
        for name in jobs_in(store, folder, results):
            (store / "records" / f"{stage}-{name}.json").unlink(missing_ok=True)
        removed += [folder, *remove_receipts(store, folder, results)]
    return removed


def _print_table(store: Path) -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    table = Table("stage", "key", "size", "files", "seconds", title=str(store), title_justify="left")
    for stage in STAGES:
        for folder in sorted((store / stage).glob("*/")):
            files = [path for path in folder.rglob("*") if path.is_file()]
            record = read_record(store / "records" / f"{stage}-{folder.name}.json")
            seconds = f"{record.seconds:.1f}" if record else ""
            table.add_row(
                stage, folder.name, decimal(sum(path.stat().st_size for path in files)), str(len(files)), seconds
            )
    Console().print(table)
