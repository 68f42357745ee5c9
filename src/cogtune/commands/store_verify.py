"""`cogtune store verify`: check the store against its checksums, and remove damaged data.

A repair removes the damaged row, file or checkpoint, and the receipts of the jobs that depend on it, so that the next
run recomputes only this. One run reports everything; a failed check does not stop the others.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from cogtune.commands.receipts import finished_jobs, remove_receipts
from cogtune.commands.store_checks import Check, Damage, folder_checks, store_checks
from cogtune.data.shards import Shard
from cogtune.data.store import shard_paths
from cogtune.errors import UserError
from cogtune.runtime.paths import is_key, key_folder
from cogtune.runtime.progress import progress
from cogtune.runtime.reservations import hold_alone
from cogtune.work.stages import STAGES

_LOCKS = "locks"
_CURVES = ("tensorboard", "csv", "wandb")
"""Folders of a training with what other programs show; its log has the same numbers, with checksums."""
"""Locks are not results; an unreadable lock is taken over."""


def run(store: Path, key: str | None, repair: bool, results: Path) -> int:
    """Print all damage; return 1 if any is left in the store. Raises UserError for an unknown key."""
    finished = finished_jobs(store, results)
    done = {folder for folders in finished.values() for folder in folders}
    folders = _folders(store, key, finished)
    checks: dict[Path, list[Check]] = {store: list(store_checks(store, key))}
    checks |= {folder: list(folder_checks(folder, folder in done)) for folder in folders}
    if key and not folders and not checks[store]:
        raise UserError(f"{store}: no entry with key {key}; see `cogtune store list`")
    total = sum(map(len, checks.values()))
    damage_count = 0
    with progress(total, "verify", "files", plain=not sys.stderr.isatty()) as bar:
        for folder, some in checks.items():
            damages = dict[str, Damage]()  # run all checks of a folder before a repair changes it
            for check in some:
                damages |= {damage.message: damage for damage in check.run()}
                bar.advance()
            for message in damages:
                print(message, flush=True)
            damage_count += sum(not damage.note for damage in damages.values())
            if repair and damages:
                _repair(store, folder, list(damages.values()), results)
    _report_unchecked(store, [folder for folder in folders if folder.is_dir()], checks, all_keys=key is None)
    if not damage_count:
        print(f"{total} files and shards verified, no damage")
    elif not repair:
        print("run `cogtune store verify --repair` to remove damaged data; the next run recomputes it")
    return int(bool(damage_count) and not repair)


def _folders(store: Path, key: str | None, finished: Mapping[str, list[Path]]) -> list[Path]:
    """The folders to check. ``key``: of a folder, or of a job with a receipt. ``finished``: see `finished_jobs`."""
    done = {folder for folders in finished.values() for folder in folders}
    if key is None:
        folders = [folder for stage in STAGES for folder in sorted((store / stage).glob("*")) if is_key(folder.name)]
        folders += sorted(done - set(folders))
    else:
        folders = [*(key_folder(store / stage, key, "store verify") for stage in STAGES), *finished.get(key, [])]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir() or folder in done]


def _repair(store: Path, folder: Path, damages: Iterable[Damage], results: Path) -> None:
    if folder == store:  # files outside of key folders; each is replaced or removed
        for damage in damages:
            damage.take_out()
        return
    with hold_alone(store / "locks" / f"{folder.parent.name}-{folder.name}.lock"):
        # Receipts first: a kill in between then leaves detectable damage, never missing data with a valid receipt.
        for path in remove_receipts(store, folder, results) if any(damage.rerun for damage in damages) else ():
            print(f"removed {path}")
        for damage in damages:
            damage.take_out()
        if any(damage.rerun for damage in damages):
            print(f"removed damaged data from {folder}; the next run recomputes it", flush=True)


def _report_unchecked(store: Path, folders: Iterable[Path], checks: dict[Path, list[Check]], all_keys: bool) -> None:
    """List files without a checksum: of earlier versions, or not written by a run."""
    shards = sum(not _is_checked(path) for folder in folders for path in shard_paths(folder))
    if shards:
        print(f"{shards} shards of an earlier version have no checksums; their rows were not verified")
    claimed = {path for some in checks.values() for check in some for path in check.files}
    files = [path for place in ([store] if all_keys else folders) for path in place.rglob("*") if path.is_file()]
    others = sorted(path for path in files if path not in claimed and not _is_passed_over(path.relative_to(store)))
    if others:
        print(
            f"{len(others)} other files have no checksum (from an earlier version, or not from cogtune) and were not "
            f"verified; the first is {others[0]}"
        )


def _is_passed_over(name: Path) -> bool:
    if name.parts[0] == _LOCKS or name.suffix == ".log" or any(part.startswith(".") for part in name.parts):
        return True
    return name.parts[0] == "train" and len(name.parts) > 3 and name.parts[2] in _CURVES


def _is_checked(path: Path) -> bool:
    try:
        return Shard(path).checked
    except UserError:
        return True
