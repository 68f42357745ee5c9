"""The part of `cogtune store gc` for own prompts: rows of `cogtune sample` that no page shows any more."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cogtune.data.store import Shard, remove_rows, row_ids, shard_paths
from cogtune.errors import UserError
from cogtune.runtime.paths import check_removable, inside
from cogtune.runtime.reservations import hold_alone, user_of
from cogtune.runtime.sums import drop_sums

_VIEWS = ("videos/{}.mp4", "images/{}.png")


@dataclass(frozen=True)
class UnusedRows:
    """Rows of a folder of the store that is needed, because other rows of it are on a page."""

    folder: Path
    rows: frozenset[str]
    bytes: int


def unused_rows(store: Path, pages: Mapping[Path, frozenset[str]], age: float) -> Iterator[UnusedRows]:
    """The rows that no page shows, and that are older than ``age`` seconds. ``pages``: folder -> rows on pages. Raises
    nothing for a damaged folder: `store verify` is for that."""
    for folder, used in sorted(pages.items()):
        try:
            check_removable(folder, store)
            rows = frozenset(row for row in row_ids(folder, remember=False) - used if _age(folder, row) >= age)
        except (UserError, OSError):
            continue
        if rows:
            yield UnusedRows(folder, rows, sum(_size(folder, row) for row in rows))


def free_rows(store: Path, unused: UnusedRows, lock: Path, used: frozenset[str]) -> None:
    """Remove the rows, unless they are in ``used`` now. Videos go first: without them a row is complete, and the next run
    writes its video again."""
    if user_of(lock):
        return
    with hold_alone(lock):
        check_removable(unused.folder, store)
        rows = sorted(unused.rows - used)
        views = [view.format(row) for row in rows for view in _VIEWS]
        drop_sums(unused.folder, views)
        for view in views:
            inside(unused.folder, view, unused.folder).unlink(missing_ok=True)
        for path in shard_paths(unused.folder):
            if gone := [row for row in Shard(path).rows() if row in unused.rows - used]:
                remove_rows(path, gone)


def _age(folder: Path, row: str) -> float:
    video = inside(folder, _VIEWS[0].format(row), folder)
    return time.time() - (video if video.exists() else folder).lstat().st_mtime


def _size(folder: Path, row: str) -> int:
    """Of its video files; the frames in the shard take several times as much."""
    files = [inside(folder, view.format(row), folder) for view in _VIEWS]
    return sum(file.lstat().st_size for file in files if file.is_file())
