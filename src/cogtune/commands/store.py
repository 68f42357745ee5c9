"""`cogtune store`: list the store, and remove entries so that Snakemake recomputes them."""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cogtune.commands.options import Subcommands, add_workflow
from cogtune.errors import UserError
from cogtune.runtime.locks import hold_lock
from cogtune.runtime.paths import check_removable, is_key, key_folder, remove_folder
from cogtune.runtime.records import read_record
from cogtune.work.runs import known_parts
from cogtune.work.slices import Slice, read_slice
from cogtune.work.stages import STAGES
from cogtune.work.workflow_config import workflow_values


def add_to(commands: Subcommands) -> None:
    """The subcommand."""
    store = commands.add_parser("store", help="list the store, remove a key, verify checksums")
    store.add_argument("action", choices=["list", "drop", "verify"])
    store.add_argument("key", nargs="?", help="12 hex digits, the folder's name (verify: default all)")
    store.add_argument("--repair", action="store_true", help="verify: remove damaged data; the next run recomputes it")
    store.add_argument("--store", type=Path, metavar="DIR", help="default: store_dir of --workflow")
    store.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="results folder with the receipts to remove (default: results_dir of --workflow)",
    )
    add_workflow(store, "store_dir, results_dir")
    store.set_defaults(run_command=run)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """`cogtune store list`, `drop KEY` and `verify`; returns the exit code. Raises UserError."""
    if overrides:
        raise UserError(f"store takes no overrides; found {' '.join(overrides)} after `--`")
    if arguments.repair and arguments.action != "verify":
        raise UserError(f"store {arguments.action} takes no --repair; only store verify does")
    if arguments.key is not None and arguments.action == "list":
        raise UserError(f"store list takes no key; found {arguments.key!r}")
    store, results = _places(arguments)
    if arguments.action == "verify":
        from cogtune.commands import store_verify

        return store_verify.run(store, arguments.key, arguments.repair, results)
    if not store.is_dir():
        raise UserError(f"{store}: no such store; set it with --store DIR")
    if arguments.action == "list":
        _print_table(store)
        return 0
    if not arguments.key:
        raise UserError("store drop needs a key: 12 hex digits, see `cogtune store list`")
    for path in drop(store, arguments.key, results):
        print(f"removed {path}")
    return 0


def _places(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Store and results folder: from the options, the workflow config, or the defaults."""
    named = workflow_values(arguments.workflow, {}) if arguments.workflow.exists() else {}
    store = arguments.store or Path(named.get("store_dir", "store"))
    return store, arguments.results or Path(named.get("results_dir", "results"))


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
        with hold_lock(store / "locks" / f"{stage}-{key}.lock"):
            remove_folder(folder, store)
        for name in _jobs(store, folder, results):
            (store / "records" / f"{stage}-{name}.json").unlink(missing_ok=True)
        removed += [folder, *remove_receipts(store, folder, results)]
    return removed


def finished_folders(store: Path, results: Path) -> set[Path]:
    """The folders of all jobs that have a receipt."""
    receipts = {path.stem for path in (results / ".receipts").glob("*-*.json")}
    done = [part for part in _slices(store) if f"{part.stage}-{part.key}" in receipts]
    return {store / part.stage / (part.items_key if STAGES[part.stage].items else part.key) for part in done}


def remove_receipts(store: Path, folder: Path, results: Path) -> list[Path]:
    """Remove the receipts of the jobs that write to ``folder``, and of all downstream jobs; return the removed paths."""
    jobs = _with_downstream(_jobs(store, folder, results), list(_links(store, results)))
    receipts = [path for name in jobs for path in _receipts(results, name)]
    for path in receipts:
        path.unlink()
    return receipts


def _jobs(store: Path, folder: Path, results: Path) -> set[str]:
    """Keys of the jobs that write to a folder: the job of its name, or all jobs that share its rows.

    A finished job of the stage whose slice is damaged may be one of them, so it is included: rerunning it is cheap.
    """
    stage, key = folder.parent.name, folder.name
    slices = {part.key: part for part in _slices(store)}
    jobs = {part.key for part in slices.values() if part.stage == stage and key in (part.key, part.items_key)}
    finished = {path.stem.rpartition("-")[2] for path in (results / ".receipts").glob(f"{stage}-*.json")}
    damaged = {path.stem for path in (store / "slices").glob("*.json") if is_key(path.stem)} - slices.keys()
    return jobs | (finished & damaged)


def _with_downstream(keys: set[str], links: list[tuple[str, set[str]]]) -> set[str]:
    """Job keys with those of all downstream jobs."""
    reached = set(keys)
    while True:
        more = {key for key, upstream in links if reached & upstream}
        if more <= reached:
            return reached
        reached |= more


def _links(store: Path, results: Path) -> Iterator[tuple[str, set[str]]]:
    """(job key, keys of its upstream jobs), from the runs of this results folder, the records of finished jobs, and the
    run files that earlier versions kept in the store."""
    parts = list(known_parts(results))
    parts += [(path.stem.rpartition("-")[2], _read(path).get("run")) for path in (store / "records").glob("*.json")]
    parts += [(path.name.partition(".")[0], _read(path)) for path in (store / "slices").glob("*.volatile.json")]
    for key, part in parts:
        jobs = part.get("jobs") if isinstance(part, dict) else None
        if isinstance(jobs, dict):
            yield key, {job["key"] for job in jobs.values() if isinstance(job, dict) and "key" in job}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _receipts(results: Path, key: str) -> list[Path]:
    receipts = [*(results / ".receipts").glob(f"*-{key}.json"), *results.glob(f"*/.published-{key}")]
    return sorted(path for path in receipts if not path.parent.is_symlink())


def _slices(store: Path) -> Iterator[Slice]:
    """All valid slices; `store verify` reports damaged ones."""
    for path in sorted((store / "slices").glob("*.json")):
        if is_key(path.stem):
            with suppress(UserError):
                yield read_slice(path)


def _print_table(store: Path) -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    table = Table("stage", "key", "size", "files", "seconds", title=str(store), title_justify="left")
    for stage in STAGES:
        for folder in sorted((store / stage).glob("*/")):
            files = [path for path in folder.rglob("*") if path.is_file()]
            record = read_record(store / "records" / f"{stage}-{folder.name}.json")
            seconds = f"{record['seconds']:.1f}" if record else ""
            table.add_row(
                stage, folder.name, decimal(sum(path.stat().st_size for path in files)), str(len(files)), seconds
            )
    Console().print(table)
