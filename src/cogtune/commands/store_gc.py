"""`cogtune store gc`: remove what no results folder that uses the store needs.

Nothing is removed that a receipt or a run of a registered results folder needs, that a live process holds the lock of,
that is younger than a limit, or that is older than the registration of results folders.
"""

import argparse
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cogtune.commands.receipts import remove_receipts
from cogtune.commands.store_gc_pages import UnusedRows, free_rows, unused_rows
from cogtune.errors import UserError
from cogtune.runtime.paths import check_removable, is_key, remove_folder
from cogtune.runtime.reservations import hold_alone, user_of
from cogtune.work.needs import Needs, Superseded, needs_of
from cogtune.work.roots import Root, roots_of
from cogtune.work.stages import STAGES

_SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.")
"""Names of `runtime/atomic.py`; only a killed writer leaves such a file."""


@dataclass(frozen=True)
class Entry:
    """One key folder. ``bytes``: of its ``files``; ``changed``: time of its last change."""

    folder: Path
    bytes: int
    files: int
    changed: float


@dataclass(frozen=True)
class Policy:
    """What is kept although nobody needs it. ``age``: seconds; ``old``: whether entries that are older than the
    registration of results folders may be removed. ``superseded``: whether what only earlier configs of the results
    folder of this command need may be removed."""

    age: float
    old: bool = False
    superseded: bool = False


@dataclass(frozen=True)
class Collection:
    """The result of a look at the store. ``kept``: entry -> reason. ``rows``: of entries that are kept."""

    kept: dict[Entry, str]
    removable: list[Entry]
    temporary: list[Entry]
    rows: list[UnusedRows]

    def in_words(self) -> str:
        """How much can be removed; "" if nothing can."""
        entries, videos = len(self.removable) + len(self.temporary), sum(len(unused.rows) for unused in self.rows)
        counts = [f"{entries} entries"] * bool(entries) + [f"{videos} videos of own prompts"] * bool(videos)
        return " and ".join(counts)


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of gc."""
    command.add_argument("--yes", action="store_true", help="remove; without it, only print what would be removed")
    command.add_argument(
        "--older-than",
        type=age_of,
        metavar="AGE",
        default="1d",
        help="keep what changed within this time: 12h, 1d, 2w (default: 1d)",
    )
    command.add_argument(
        "--forget", action="append", metavar="DIR", help="a results folder that was deleted; repeat for several"
    )
    command.add_argument(
        "--include-old",
        action="store_true",
        help="also remove what is older than the registration of results folders, if none of them needs it",
    )
    command.add_argument(
        "--superseded",
        action="store_true",
        help="also remove what only earlier configs of --results need: not its published reports, nor a run that started "
        "within --older-than",
    )
    command.add_argument("-v", "--verbose", action="store_true", help="print each entry, and why it is kept")


def age_of(text: str) -> float:
    """Seconds of 90m, 12h, 1d, 2w or 0."""
    match = re.fullmatch(r"(\d+)([mhdw])", text)
    if match is None and text != "0":
        raise argparse.ArgumentTypeError(f"expected a number with m, h, d or w, such as 12h or 1d; found {text!r}")
    return float(match[1]) * _SECONDS[match[2]] if match else 0.0


def run(store: Path, results: Path, arguments: argparse.Namespace) -> int:
    """Print what is removable, and remove it with --yes; returns the exit code. Raises UserError."""
    policy = Policy(arguments.older_than, arguments.include_old, arguments.superseded)
    forgotten = forgotten_roots(roots_of(store), arguments.forget or ())
    collection = collect(store, results, policy, forgotten)
    _print(collection, arguments.verbose)
    what = collection.in_words()
    if not arguments.yes:
        print(f"dry run, nothing was removed; --yes removes {what}" if what else "nothing to remove")
        return 0
    for root in forgotten:
        root.file.unlink(missing_ok=True)
    for folder in remove(store, results, policy, collection):
        print(f"removed {folder}")
    return 0


def forgotten_roots(roots: Iterable[Root], named: Sequence[str]) -> list[Root]:
    """The roots of ``--forget``. Raises UserError for a folder that is not registered, or still exists."""
    known = {str(root.results): root for root in roots}
    chosen: list[Root] = []
    for name in named:
        root = known.get(name) or known.get(os.path.realpath(name))
        if root is None:
            listed = ", ".join(known) or "none"
            raise UserError(f"--forget {name}: not a registered results folder; registered: {listed}")
        if _exists(root):
            raise UserError(f"--forget {name}: the folder exists; delete it first if its results are not needed")
        chosen.append(root)
    return chosen


def collect(store: Path, results: Path, policy: Policy, forgotten: Sequence[Root] = ()) -> Collection:
    """What of the store is kept and why, and what is removable. Removes nothing. Raises UserError if a registered
    results folder does not exist, as it may be on a disk that is not mounted."""
    roots = [root for root in roots_of(store) if root not in forgotten]
    if gone := [root for root in roots if not _exists(root)]:
        names = "".join(f"\n  {root.results} (user {root.user})" for root in gone)
        raise UserError(
            f"{store}: used by results folders that do not exist here:{names}\nIf they were deleted, add --forget DIR for "
            f"each. If they are on a disk that this machine does not mount, run this where it is mounted"
        )
    needs = _needs(store, roots, results, policy)
    since = min((root.file.stat().st_mtime for root in roots_of(store)), default=time.time())
    now = time.time()
    kept: dict[Entry, str] = {}
    removable: list[Entry] = []
    for entry in entries(store):
        if reason := why_kept(store, entry, needs, policy, now, since):
            kept[entry] = reason
        else:
            removable.append(entry)
    temporary = [entry for entry in temporaries(store) if now - entry.changed >= max(policy.age, _SECONDS["h"])]
    return Collection(kept, removable, temporary, list(unused_rows(store, needs.pages, policy.age)))


def _needs(store: Path, roots: Iterable[Root], results: Path, policy: Policy) -> Needs:
    """What the results folders of all roots need, and the one of this command."""
    own = results.resolve()
    superseded = Superseded(own, time.time() - policy.age) if policy.superseded else None
    return needs_of(store, dict.fromkeys([*(root.results for root in roots), own]), superseded)


def why_kept(store: Path, entry: Entry, needs: Needs, policy: Policy, now: float, since: float) -> str:
    """Why an entry is kept; "" if it is removable. ``since``: when the first results folder was registered."""
    folder = entry.folder
    if reason := needs.of(folder):
        return reason
    if owner := user_of(_lock_of(store, folder)):
        return f"{owner} is working in it"
    if now - entry.changed < policy.age:
        return f"changed {(now - entry.changed) / 3600:.1f} hours ago (--older-than)"
    if entry.changed < since and not policy.old:
        return "older than the registration of results folders, one of which may need it (--include-old)"
    try:
        check_removable(folder, store)
    except UserError as error:
        return str(error)
    return ""


def entries(store: Path) -> Iterator[Entry]:
    """The key folders of all stages."""
    for stage in STAGES:
        for folder in sorted((store / stage).glob("*")):
            if is_key(folder.name) and (folder.is_dir() or folder.is_symlink()):
                yield _entry(folder)


def _entry(folder: Path) -> Entry:
    stats = [folder.lstat()]
    files = 0
    if not folder.is_symlink():
        for path in folder.rglob("*"):
            try:
                stats.append(path.lstat())
            except FileNotFoundError:
                continue  # a job is working in it
            files += path.is_file()
    return Entry(folder, sum(one.st_size for one in stats[1:]), files, max(one.st_mtime for one in stats))


def temporaries(store: Path) -> Iterator[Entry]:
    """Files that killed writers left."""
    for stage in ("", "slices", "records", "roots", *STAGES):
        place = store / stage
        for path in sorted(place.rglob("*") if stage in STAGES else place.glob("*")):
            if _TEMPORARY.match(path.name) and path.is_file() and not path.is_symlink():
                yield Entry(path, path.stat().st_size, 1, path.stat().st_mtime)


def remove(store: Path, results: Path, policy: Policy, collection: Collection) -> Iterator[Path]:
    """Remove what is still removable, each under its lock: a run may have started since. Yields what was removed."""
    for entry in collection.removable:
        if user_of(_lock_of(store, entry.folder)):
            continue
        with hold_alone(_lock_of(store, entry.folder)):
            needs = _needs(store, roots_of(store), results, policy)
            if not needs.of(entry.folder) and _entry(entry.folder).changed == entry.changed:
                if policy.superseded:  # receipts first: a kill in between must not leave one without its data
                    yield from remove_receipts(store, entry.folder, results)
                remove_folder(entry.folder, store)
                yield entry.folder
    for unused in collection.rows:
        used = _needs(store, roots_of(store), results, policy).pages.get(unused.folder, frozenset())
        free_rows(store, unused, _lock_of(store, unused.folder), used)
    for entry in collection.temporary:
        entry.folder.unlink(missing_ok=True)
        yield entry.folder


def _lock_of(store: Path, folder: Path) -> Path:
    return store / "locks" / f"{folder.parent.name}-{folder.name}.lock"


def _exists(root: Root) -> bool:
    """Whether a results folder exists. Raises UserError if this cannot be determined."""
    try:
        root.results.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UserError(
            f"{root.results} (user {root.user}) uses this store: {error.strerror}; what it needs is unknown, so nothing can "
            f"be removed. Run this as its owner, or ask for read permission"
        ) from None
    return True


def _print(collection: Collection, verbose: bool) -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    table = Table("stage", "kept", "size", "removable", "size")
    rows = [(stage, *_both(collection, stage)) for stage in STAGES]
    rows.append(("temporary files", [], collection.temporary))
    for stage, kept, removable in rows:
        if kept or removable:
            sizes = [decimal(sum(entry.bytes for entry in group)) for group in (kept, removable)]
            table.add_row(stage, str(len(kept)), sizes[0], str(len(removable)), sizes[1])
    total = [list(collection.kept), [*collection.removable, *collection.temporary]]
    sizes = [decimal(sum(entry.bytes for entry in group)) for group in total]
    table.add_section()
    table.add_row("total", str(len(total[0])), sizes[0], str(len(total[1])), sizes[1])
    Console().print(table)
    if verbose:
        for entry, reason in collection.kept.items():
            print(f"kept {entry.folder}: {reason}")
    for entry in total[1]:
        print(f"removable {entry.folder} ({decimal(entry.bytes)})")
    for unused in collection.rows:
        size = decimal(unused.bytes)
        print(f"removable in {unused.folder}: {len(unused.rows)} videos that no page shows ({size}, and their frames)")


def _both(collection: Collection, stage: str) -> tuple[list[Entry], list[Entry]]:
    groups = (collection.kept, collection.removable)
    kept, removable = ([entry for entry in group if entry.folder.parent.name == stage] for group in groups)
    return kept, removable
