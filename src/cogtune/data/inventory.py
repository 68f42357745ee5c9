"""What the store holds, and how to take something out of it so that Snakemake makes it again."""

import json
import shutil
from pathlib import Path

from cogtune.config.slices import read_slice
from cogtune.config.stages import STAGES
from cogtune.errors import UserError
from cogtune.runtime.locks import hold_lock


def run(action: str, store: Path, key: str | None, results: Path = Path("results")) -> int:
    """`cogtune store list` and `cogtune store drop KEY`."""
    if not store.is_dir():
        raise UserError(f"{store}: no store here; name it with --store DIR")
    if action == "list":
        _print_table(store)
        return 0
    if not key:
        raise UserError("store drop needs a key: 12 hex digits, as `cogtune store list` shows them")
    for path in drop(store, key, results):
        print(f"removed {path}")
    return 0


def drop(store: Path, key: str, results: Path) -> list[Path]:
    """Remove the folder named ``key`` and the receipts that speak of it; returns what was removed.

    Receipts are named by job key and item folders by item key, so both are looked up through the slices.
    """
    folders = [store / stage / key for stage in STAGES if (store / stage / key).is_dir()]
    if not folders:
        raise UserError(f"{store}: nothing has the key {key}; `cogtune store list` shows the keys")
    removed: list[Path] = []
    for folder in folders:
        stage = folder.parent.name
        with hold_lock(store / "locks" / f"{stage}-{key}.lock"):
            shutil.rmtree(folder)
        jobs = [part for part in _slices(store) if part.stage == stage and key in (part.key, part.items_key)]
        receipts = [results / ".receipts" / f"{stage}-{part.key}.json" for part in jobs]
        records = [store / "records" / f"{stage}-{part.key}.json" for part in jobs]
        for path in (*receipts, *records):
            path.unlink(missing_ok=True)
        removed += [folder, *receipts]
    return removed


def _slices(store: Path):
    for path in sorted((store / "slices").glob("*.json")):
        if path.suffixes == [".json"]:
            yield read_slice(path)


def _print_table(store: Path) -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    table = Table("stage", "key", "size", "files", "seconds", title=str(store), title_justify="left")
    for stage in STAGES:
        for folder in sorted((store / stage).glob("*/")):
            files = [path for path in folder.rglob("*") if path.is_file()]
            record = store / "records" / f"{stage}-{folder.name}.json"
            seconds = f"{json.loads(record.read_text())['seconds']:.1f}" if record.exists() else ""
            table.add_row(
                stage, folder.name, decimal(sum(path.stat().st_size for path in files)), str(len(files)), seconds
            )
    Console().print(table)
