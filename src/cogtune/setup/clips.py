"""Look at a folder of clips, as the scan does: which are usable, how long they are, where their captions are."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cogtune.data.caption_list import READERS
from cogtune.data.frames import is_usable
from cogtune.data.listing import ClipRow, Reject
from cogtune.data.scan import Memo, scan
from cogtune.data.walk import VIDEO_SUFFIXES
from cogtune.errors import UserError
from cogtune.runtime.paths import quoted

_MAX_WORKERS, _MAX_LISTED = 8, 5
_VALIDATION = ("valid", "validation", "val")


@dataclass(frozen=True)
class Data:
    """``folder``, ``valid``: as written into a config. ``rows``: its usable clips for training; ``valid_rows`` for validation.
    ``rejects``: files that are not used. ``captions``: where the captions are, in words."""

    folder: str
    rows: list[ClipRow]
    rejects: list[Reject]
    captions: str
    valid: str | None = None
    valid_rows: tuple[ClipRow, ...] = ()

    def usable(self, frames: int, fps: float, skip: float) -> int:
        """The number of clips that are long enough for ``frames`` frames at ``fps``, without ``skip`` source frames at either
        end."""
        return sum(is_usable(row.frames, row.fps, fps, frames, skip) for row in self.rows)

    @property
    def seconds(self) -> tuple[float, float]:
        """Length of the shortest and of the longest clip."""
        lengths = [row.frames / row.fps for row in self.rows]
        return min(lengths), max(lengths)


def look_at(
    written: str, valid: str | None, memo: Path, on_start: Callable[[int], object], on_file: Callable[[], object]
) -> Data:
    """Look at the clips of ``--data`` and ``--valid``: a folder, or its list of captions. ``memo``: the scan's, which reads
    no file again. Raises UserError if no clip is usable."""
    folder, detected = _folder(written, "--data"), None
    if valid is None and (name := next((name for name in _VALIDATION if (folder / name).is_dir()), None)):
        if not (folder / "train").is_dir():
            raise UserError(f"--data {quoted(written)}: {name}/ is in it, but no train/; give both: --data and --valid")
        folder, detected = folder / "train", folder / name
    held = _folder(valid, "--valid") if valid is not None else detected
    # As the scan stage names them, so that the memo knows these files there.
    roots = {"train": [folder.resolve()]} | ({"valid": [held.resolve()]} if held else {})
    workers = min(os.cpu_count() or 1, _MAX_WORKERS)
    scanned = scan(roots, Memo(memo), workers=workers, on_start=on_start, on_file=on_file)
    rows = [row for row in scanned.rows if row.split == "train"]
    if not rows:
        raise UserError(_nothing_usable(written, [*scanned.rejects, *scanned.others]))
    held_out = tuple(row for row in scanned.rows if row.split == "valid")
    if held and not held_out:
        rejects = [reject for reject in scanned.rejects if reject.split == "valid"]
        raise UserError(_nothing_usable(str(held), rejects))
    return Data(
        _as_written(folder), rows, scanned.rejects, _captions(folder), _as_written(held) if held else None, held_out
    )


def reasons(rejects: Sequence[Reject]) -> list[str]:
    """The reasons for files that are not used, most frequent first, each with its number of files and the first one."""
    first = dict[str, Reject]()
    for reject in rejects:
        first.setdefault(reject.reason.partition(":")[0], reject)
    counts = Counter(reject.reason.partition(":")[0] for reject in rejects)
    return [
        f"{f'{count} files, e.g. ' if count > 1 else ''}{first[kind].name}: {first[kind].reason}"
        for kind, count in counts.most_common(_MAX_LISTED)
    ]


def _folder(written: str, option: str) -> Path:
    path = Path(written).expanduser()
    if not str(path).isprintable():
        raise UserError(f"{option} {quoted(written)}: a path with control characters cannot be written into a config")
    if path.is_file():
        if path.name in READERS:
            return path.parent
        if path.suffix.lower() in VIDEO_SUFFIXES:
            raise UserError(f"{option} {quoted(written)}: is a video; give the folder that contains your clips")
        names = " or ".join(READERS)
        raise UserError(
            f"{option} {quoted(written)}: this list is not read; expected a folder, or {names} beside the clips, with the "
            f"columns file_name and text (docs/data.md)"
        )
    if not path.is_dir():
        near = "; put a name with spaces in quotes" if path.parent.is_dir() and _begins(path) else ""
        raise UserError(f"{option} {quoted(written)}: no such folder{near}")
    return path


def _begins(path: Path) -> bool:
    return any(other.name.startswith(f"{path.name} ") for other in path.parent.iterdir())


def _as_written(folder: Path) -> str:
    """The folder for a config, which is relative to the directory of this command."""
    absolute = Path(os.path.abspath(folder))
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def _captions(folder: Path) -> str:
    if listed := next((name for name in READERS if (folder / name).is_file()), None):
        return listed
    inside = (folder / "videos").is_dir() or folder.name == "videos"
    return "labels/*.txt" if inside else "a .txt beside each clip"


def _nothing_usable(written: str, rejects: Sequence[Reject]) -> str:
    lines = reasons(rejects) or [f"no video in it; expected files that end in {', '.join(sorted(VIDEO_SUFFIXES))}"]
    listed = "\n".join(f"  {line}" for line in lines)
    return f"{quoted(written)}: no usable clip. A clip needs a caption (docs/data.md).\n{listed}"
