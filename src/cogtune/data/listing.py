"""What is in the data folders, and the manifest that scan makes of it. No torch: the Snakefile asks at parse time."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from cogtune.config.digest import digest
from cogtune.errors import UserError
from cogtune.runtime.atomic import write_text

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"})
"""Compared in lower case. Upstream reads ``.mp4`` in lower case only and passes over the rest without a word."""


@dataclass(frozen=True)
class ClipRow:
    """One accepted (clip, caption) pair.

    ``clip``: sha256 of the file's content, 64 hex digits. ``name``: relative to its root, with slashes. ``split``:
    "train" or "valid". ``caption_id``: sha256 of the caption in UTF-8. ``fps``: the average. Sizes are in pixels.
    """

    clip: str
    path: str
    name: str
    split: str
    caption: str
    caption_id: str
    frames: int
    fps: float
    width: int
    height: int


@dataclass(frozen=True)
class Listed:
    """One candidate below a data folder. ``refused`` says why it is not even opened."""

    name: str
    path: Path
    label: Path | None
    refused: str | None = None


def list_videos(root: Path) -> Iterator[Listed]:
    """Every video below ``root``, in a fixed order. Links that lead out are refused, links to folders not followed.

    Hidden files and folders are passed over, as macOS puts ``._clip.mp4`` beside clips.
    """
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in [name for name in names if os.path.islink(os.path.join(folder, name))]:
            path = Path(folder, name)
            yield Listed(f"{_relative(path, root)}/", path, None, "a symbolic link to a folder; links are not followed")
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix.lower() in VIDEO_SUFFIXES and not name.startswith("."):
                yield _listed(path, root)


def label_of(path: Path, root: Path) -> Path:
    """Where the caption of a video is: `.txt` for the suffix, and ``labels`` for the last folder named ``videos``.

    Folders above ``root`` are never renamed, ``root`` itself is if its own name is ``videos``. (Upstream replaces every
    "videos" and every ".mp4" anywhere in the path.)
    """
    relative = path.relative_to(root).with_suffix(".txt")
    parts = list(relative.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "videos":
            parts[index] = "labels"
            return root.joinpath(*parts)
    return (root.with_name("labels") if root.name == "videos" else root) / relative


def fingerprint(roots: Mapping[str, Sequence[str | os.PathLike[str]]]) -> str:
    """A digest that changes when a scan of ``roots`` (split -> folders) could find something else.

    It covers the folders' own paths, and relative path, size and mtime in ns of every video and caption; no file is
    opened. What a scan writes is keyed by content, so a `touch` goes no further than one scan.
    """
    state = [
        [split, str(Path(root).resolve()), [_stamps(video) for video in list_videos(Path(root))]]
        for split, folders in sorted(roots.items())
        for root in folders
    ]
    return digest(state)


def write_manifest(path: Path, rows: Iterable[ClipRow]) -> None:
    """One JSON object a line, sorted by (split, clip)."""
    ordered = sorted(rows, key=lambda row: (row.split, row.clip))
    write_text(path, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in ordered))


def read_manifest(path: Path) -> list[ClipRow]:
    """The rows that `write_manifest` wrote. Raises UserError if there are none to read."""
    try:
        return [ClipRow(**json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except FileNotFoundError:
        raise UserError(f"{path}: no manifest; run the scan stage first") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a manifest of this version ({error}); delete its folder and scan again") from None


def _listed(path: Path, root: Path) -> Listed:
    name, label = _relative(path, root), label_of(path, root)
    if not _is_utf8(str(path)):
        return Listed(name, path, None, "its name is not UTF-8; rename it")
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        return Listed(name, path, None, "a symbolic link that leads out of the data folder")
    # A root that is itself named videos has its captions beside it.
    base = (root.parent if root.name == "videos" else root).resolve()
    if not _folder_inside(label.parent, base) or (label.is_symlink() and not label.resolve().is_relative_to(base)):
        return Listed(
            name, path, None, f"its caption {label.name} is reached by a symbolic link out of the data folder"
        )
    return Listed(name, path, label)


@lru_cache(maxsize=1024)
def _folder_inside(folder: Path, base: Path) -> bool:
    return folder.resolve().is_relative_to(base)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix().encode("utf-8", "backslashreplace").decode()


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stamps(video: Listed) -> list:
    return [video.name, video.refused, _stamp(video.path), _stamp(video.label)]


def _stamp(path: Path | None) -> list[int] | None:
    try:
        status = os.stat(path) if path is not None else None
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns] if status else None
