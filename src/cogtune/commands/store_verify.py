"""`cogtune store verify`: holds what the store keeps against its checksums, and takes out what is damaged.

Taken out are the row, the file or the checkpoint, and the receipts of the jobs that it stands behind, so that the next
run makes this again and nothing else.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cogtune.commands.store import finished_folders, remove_receipts
from cogtune.data.container import is_whole
from cogtune.data.listing import read_manifest
from cogtune.data.shards import Shard
from cogtune.data.store import ShardReader, damaged_rows, shard_paths, take_out
from cogtune.errors import UserError
from cogtune.evaluation.report.gather import read_index, read_metrics, read_per_sample, read_summary
from cogtune.runtime.digest import DIGESTS
from cogtune.runtime.locks import hold_lock
from cogtune.runtime.paths import inside, is_key, key_folder, remove_own
from cogtune.runtime.progress import progress
from cogtune.runtime.saved import DamagedError, check_sums, drop_unreadable_sums, read_sealed, write_sealed
from cogtune.sampling.prompts import ID_DIGITS
from cogtune.work.stages import STAGES

VIEWS = {"sample": "videos", "evaluate": "clips"}
"""Stages that keep an mp4 of rows, and the folder of these."""


@dataclass(frozen=True)
class Damage:
    """What is wrong, and what takes it out. ``behind``: whether jobs have to run again for it."""

    message: str
    take_out: Callable[[], object]
    behind: bool = True


def run(store: Path, key: str | None, repair: bool, results: Path) -> int:
    """Print what is damaged; exit code 1 if anything is and was not taken out. Raises UserError for an unknown key."""
    done = finished_folders(store, results)
    if key is None:
        folders = [folder for stage in STAGES for folder in sorted((store / stage).glob("*")) if is_key(folder.name)]
        folders += sorted(folder for folder in done if not folder.exists())
    else:
        folders = [key_folder(store / stage, key, "store verify") for stage in STAGES]
    folders = [folder for folder in folders if folder.is_dir() or folder in done]
    if key and not folders:
        raise UserError(f"{store}: nothing has the key {key}; `cogtune store list` shows the keys")
    checks = [check for folder in folders for check in _checks(folder, folder in done)]
    found = 0
    with progress(len(checks), "verify", "files", plain=not sys.stderr.isatty()) as bar:
        for folder, check in checks:
            for damage in list(check()):  # all of it, before any of it changes what the rest is held against
                found += 1
                print(damage.message, flush=True)
                if repair:
                    _repair(folder, damage, results)
            bar.advance()
    unchecked = sum(not _is_checked(path) for folder in folders for path in shard_paths(folder))
    if unchecked:
        print(f"{unchecked} shards of an earlier version have no checksums; their rows could not be verified")
    if not found:
        print(f"{len(checks)} files and shards: all as they were written")
    elif not repair:
        print("`cogtune store verify --repair` takes out what is damaged; the next run makes it again")
    return int(bool(found) and not repair)


def _repair(folder: Path, damage: Damage, results: Path) -> None:
    store, stage = folder.parent.parent, folder.parent.name
    with hold_lock(store / "locks" / f"{stage}-{folder.name}.lock"):
        # Receipts first: a kill in between leaves damage that the next reader finds, and never work that nobody redoes.
        for path in remove_receipts(store, folder, results) if damage.behind else ():
            print(f"removed {path}")
        damage.take_out()
        if folder.is_dir():
            drop_unreadable_sums(folder)
        print(f"taken out of {folder}", flush=True)


def _checks(folder: Path, done: bool) -> Iterator[tuple[Path, Callable[[], Iterator[Damage]]]]:
    """Every file of a folder that has something to be held against. ``done``: a receipt says that its job is finished."""
    stage = folder.parent.name
    if not folder.is_dir():
        yield folder, lambda: iter([Damage(f"{folder}: gone, and a receipt says that it is finished", lambda: None)])
        return
    for path in shard_paths(folder) if stage not in ("train", "export") else ():
        yield folder, partial(_shard, path)
    if stage in VIEWS:
        yield folder, partial(_views, folder, VIEWS[stage])
    if stage == "train":
        for path in sorted(folder.glob("checkpoints/step-*")):
            yield folder, partial(_checkpoint, path)
        if done or (folder / "final/summary.json").exists():
            yield folder, partial(_told, folder / "final", partial(read_summary, folder))
    if stage == "export" and (done or (folder / "index.json").exists()):
        yield folder, partial(_exported, folder)
    if stage == "scan" and (done or (folder / "digests.json").exists()):
        yield folder, partial(_told, folder, partial(_read_scan, folder))
    if stage == "evaluate" and (done or (folder / "metrics.json").exists()):
        for name, read in (("metrics.json", read_metrics), ("per_sample.json", read_per_sample)):
            yield folder, partial(_told, folder / name, partial(read, folder))


def _shard(path: Path) -> Iterator[Damage]:
    rows, why = damaged_rows(path)
    if rows:
        some = "" if len(rows) == 1 else f" and {len(rows) - 1} more rows"
        yield Damage(f"{why}{some}", partial(take_out, path, rows))
    elif why:
        yield Damage(why, path.unlink)


def _views(folder: Path, name: str) -> Iterator[Damage]:
    """An mp4 of each sample, and of each clip that was sampled."""
    try:
        rows = ShardReader(folder).ids()
    except DamagedError:
        return  # told of already
    views = folder / name
    if name == "videos":
        for row in sorted(rows):
            if not is_whole(views / f"{row}.mp4"):
                yield Damage(f"{views / row}.mp4: missing or cut off", partial(remove_own, views / f"{row}.mp4"))
        return
    for path in sorted({*views.glob("*.mp4"), *(views / f"{name}.mp4" for name in _sampled(folder))}):
        if not is_whole(path):
            yield Damage(f"{path}: missing or cut off", partial(_forget_clip, folder, path))


def _sampled(evaluate: Path) -> set[str]:
    """The names of the clips that have a view, as far as the evaluation is finished and reads."""
    try:
        return {row["clip"][:ID_DIGITS] for row in read_per_sample(evaluate) if row.get("clip")}
    except UserError:
        return set()  # told of by its own check


def _forget_clip(folder: Path, view: Path) -> None:
    """The evaluation of a clip as well: its mp4 is written when the clip is measured."""
    for path in shard_paths(folder):
        if gone := [row for row in Shard(path).rows() if row.startswith(view.stem)]:
            take_out(path, gone)
    remove_own(view)


def _checkpoint(path: Path) -> Iterator[Damage]:
    from cogtune.train.checkpoint import verify

    try:
        verify(path)
    except (DamagedError, ValueError) as error:
        # Training goes on from the one before; a finished one does not need it.
        yield Damage(f"{path}: damaged ({error})", partial(remove_own, path), behind=False)


def _told(path: Path, read: Callable[[], object]) -> Iterator[Damage]:
    """What a stage writes at its end, from what it has. Training makes final/ again from its last checkpoint."""
    try:
        check_sums(path)
        read()
    except UserError as error:
        yield Damage(_first(error), partial(remove_own, path))


def _read_scan(folder: Path) -> None:
    read_sealed(folder / "digests.json", dict.fromkeys(DIGESTS, str), "")
    read_manifest(folder / "manifest.jsonl")


def _exported(folder: Path) -> Iterator[Damage]:
    index_path = folder / "index.json"
    try:
        index = read_index(folder)
    except UserError as error:
        yield Damage(_first(error), partial(remove_own, index_path))
        return
    for name, entry in index["formats"].items():
        try:
            check_sums(inside(folder, entry["path"], index_path))
        except DamagedError as error:
            yield Damage(_first(error), partial(_forget_format, folder, name))


def _forget_format(folder: Path, name: str) -> None:
    index = read_index(folder)
    path = inside(folder, index["formats"].pop(name)["path"], folder / "index.json")
    write_sealed(folder / "index.json", index)
    remove_own(path)


def _first(error: Exception) -> str:
    return str(error).split(";")[0]


def _is_checked(path: Path) -> bool:
    try:
        return Shard(path).checked
    except UserError:
        return True
