"""`cogtune store verify`: holds what the store keeps against its checksums, and takes out what is damaged.

Taken out are the row, the file or the checkpoint, and the receipts of the jobs that it stands behind, so that the next
run makes this again and nothing else. All of it is told in one run; what one check finds never keeps another from being done.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from cogtune.commands.store import finished_folders, remove_receipts
from cogtune.commands.store_checks import Check, Damage, folder_checks, store_checks
from cogtune.data.shards import Shard
from cogtune.data.store import shard_paths
from cogtune.errors import UserError
from cogtune.runtime.locks import hold_lock
from cogtune.runtime.paths import is_key, key_folder
from cogtune.runtime.progress import progress
from cogtune.work.stages import STAGES

_LOCKS = "locks"
"""Says who works now and nothing of a result; a claim that does not read is taken over."""


def run(store: Path, key: str | None, repair: bool, results: Path) -> int:
    """Print what is damaged; exit code 1 if anything is and was not taken out. Raises UserError for an unknown key."""
    done = finished_folders(store, results)
    folders = _folders(store, key, done)
    checks: dict[Path, list[Check]] = {store: list(store_checks(store, key))}
    checks |= {folder: list(folder_checks(folder, folder in done)) for folder in folders}
    if key and not folders and not checks[store]:
        raise UserError(f"{store}: nothing has the key {key}; `cogtune store list` shows the keys")
    total = sum(map(len, checks.values()))
    found = 0
    with progress(total, "verify", "files", plain=not sys.stderr.isatty()) as bar:
        for folder, some in checks.items():
            damages = dict[str, Damage]()  # all of a folder, before any of it changes what the rest is held against
            for check in some:
                damages |= {damage.message: damage for damage in check.run()}
                bar.advance()
            for message in damages:
                print(message, flush=True)
            found += sum(not damage.note for damage in damages.values())
            if repair and damages:
                _repair(store, folder, list(damages.values()), results)
    _say_unchecked(store, [folder for folder in folders if folder.is_dir()], checks, whole=key is None)
    if not found:
        print(f"{total} files and shards: all as they were written")
    elif not repair:
        print("`cogtune store verify --repair` takes out what is damaged; the next run makes it again")
    return int(bool(found) and not repair)


def _folders(store: Path, key: str | None, done: set[Path]) -> list[Path]:
    if key is None:
        folders = [folder for stage in STAGES for folder in sorted((store / stage).glob("*")) if is_key(folder.name)]
        folders += sorted(folder for folder in done if not folder.exists())
    else:
        folders = [key_folder(store / stage, key, "store verify") for stage in STAGES]
    return [folder for folder in folders if folder.is_dir() or folder in done]


def _repair(store: Path, folder: Path, damages: Iterable[Damage], results: Path) -> None:
    if folder == store:  # files of no folder; each is replaced or removed whole
        for damage in damages:
            damage.take_out()
        return
    with hold_lock(store / "locks" / f"{folder.parent.name}-{folder.name}.lock"):
        # Receipts first: a kill in between leaves damage that the next reader finds, and never work that nobody redoes.
        for path in remove_receipts(store, folder, results) if any(damage.behind for damage in damages) else ():
            print(f"removed {path}")
        for damage in damages:
            damage.take_out()
        if any(damage.behind for damage in damages):
            print(f"taken out of {folder}; the next run makes it again", flush=True)


def _say_unchecked(store: Path, folders: Iterable[Path], checks: dict[Path, list[Check]], whole: bool) -> None:
    """Name what has no checksum: files of an earlier version, and files that no run wrote."""
    shards = sum(not _is_checked(path) for folder in folders for path in shard_paths(folder))
    if shards:
        print(f"{shards} shards of an earlier version have no checksums; their rows could not be verified")
    claimed = {path for some in checks.values() for check in some for path in check.files}
    files = [path for place in ([store] if whole else folders) for path in place.rglob("*") if path.is_file()]
    others = sorted(path for path in files if path not in claimed and not _is_passed_over(path.relative_to(store)))
    if others:
        print(
            f"{len(others)} other files have no checksum, as an earlier version or somebody else wrote them, and were not "
            f"checked; the first is {others[0]}"
        )


def _is_passed_over(name: Path) -> bool:
    return name.parts[0] == _LOCKS or name.suffix == ".log" or any(part.startswith(".") for part in name.parts)


def _is_checked(path: Path) -> bool:
    try:
        return Shard(path).checked
    except UserError:
        return True
