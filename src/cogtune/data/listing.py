"""What is in the data folders, and the manifest that scan makes of it. No torch: the Snakefile asks at parse time."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from json.encoder import encode_basestring as _quoted
from operator import attrgetter
from pathlib import Path
from stat import S_ISLNK
from typing import NamedTuple

from cogtune.errors import UserError
from cogtune.runtime.atomic import write_text
from cogtune.runtime.paths import shown

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"})
"""Compared in lower case. Upstream reads ``.mp4`` in lower case only and passes over the rest without a word."""
_ROWS_AT_ONCE = 4096
_DIGEST = re.compile(r"[0-9a-f]{64}").fullmatch
_CLIP, _CAPTION_ID, _DIGITS = b'{"clip": "', b'"caption_id": "', 64


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
    for found in _walk(root):
        label = None if found.label is None else Path(found.label)
        yield Listed(found.name, Path(found.path), label, found.refused)


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
    opened. What a scan writes is keyed by content, so a `touch` goes no further than one scan. It is
    `config.digest.digest` of [[split, folder, [[name, refused, stamp, stamp], …]], …], hashed piece by piece: a million
    clips would take half a minute and a gigabyte as one value.
    """
    state, comma = hashlib.sha256(b"["), b""
    for split, folders in sorted(roots.items()):
        for root in folders:
            state.update(comma + f"[{_quoted(split)},{_quoted(str(Path(root).resolve()))},[".encode())
            comma, rows = b",", 0
            for chunk in _batched((_stamps(found) for found in _walk(Path(root))), _ROWS_AT_ONCE):
                state.update(("," * bool(rows) + ",".join(chunk)).encode())
                rows += len(chunk)
            state.update(b"]]")
    state.update(b"]")
    return state.hexdigest()


def write_manifest(path: Path, rows: Iterable[ClipRow]) -> None:
    """One JSON object a line, sorted by (split, clip)."""
    ordered = sorted(rows, key=lambda row: (row.split, row.clip))
    write_text(path, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in ordered))


def read_manifest(path: Path) -> list[ClipRow]:
    """The rows that `write_manifest` wrote. Raises UserError if there are none to read."""
    try:
        return [_checked(ClipRow(**json.loads(line))) for line in path.read_text("utf-8").split("\n") if line]
    except FileNotFoundError:
        raise UserError(f"{path}: no manifest; run the scan stage first") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a manifest of this version ({error}); delete its folder and scan again") from None


def _checked(row: ClipRow) -> ClipRow:
    """The row, proved to name what a scan can have found: ids that are digests, and a clip by its whole path."""
    if not (_DIGEST(row.clip) and _DIGEST(row.caption_id)):
        raise ValueError(f"clip and caption_id are 64 hex digits; found {shown(row.clip)} and {shown(row.caption_id)}")
    if not row.path.startswith("/") or "\0" in row.path or "/../" in f"{row.path}/":
        raise ValueError(f"path is the whole path of a file; found {shown(row.path)}")
    return row


class Columns(NamedTuple):
    """A manifest's clips, caption ids and splits, row by row."""

    clips: list[str]
    captions: list[str]
    splits: list[str]


def read_columns(path: Path) -> Columns:
    """What `write_manifest` wrote, three columns of it, at a microsecond a row; parsing each row takes seven.

    Raises UserError as `read_manifest` does.
    """
    found = Columns([], [], [])
    try:
        with path.open("rb") as lines:
            for line in lines:
                # Keys stand in the order of ClipRow, and a quotation mark inside a value is escaped.
                caption = line.rindex(_CAPTION_ID) + len(_CAPTION_ID)
                found.clips.append(line[len(_CLIP) : len(_CLIP) + _DIGITS].decode())
                found.captions.append(line[caption : caption + _DIGITS].decode())
                found.splits.append("train" if b'"split": "train"' in line else "valid")
                if not line.startswith(_CLIP):
                    raise ValueError("a row that does not begin with its clip")
    except FileNotFoundError:
        raise UserError(f"{path}: no manifest; run the scan stage first") from None
    except ValueError as error:
        raise UserError(f"{path}: not a manifest of this version ({error}); delete its folder and scan again") from None
    return found


def _batched(rows: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, size)):
        yield batch


class _Found(NamedTuple):
    """A video as strings; a million of them pass here. ``label_status``: of the caption's own entry, links not followed."""

    name: str
    path: str
    label: str | None = None
    refused: str | None = None
    label_status: os.stat_result | None = None


def _walk(root: Path) -> Iterator[_Found]:
    """All videos below ``root``: of a folder first its links to folders, then its files, then what is in its folders."""
    inside = root.resolve()
    # A root that is itself named videos has its captions beside it.
    labels_inside = (root.parent if root.name == "videos" else root).resolve()
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                listed = sorted((entry for entry in entries if entry.name[0] != "."), key=attrgetter("name"))
        except OSError:
            continue
        folders, videos = [], []
        for entry in listed:
            if _is_folder(entry):
                folders.append(entry)
            elif _is_video(entry.name):
                videos.append(entry)
        for entry in folders:
            if entry.is_symlink():
                reason = "a symbolic link to a folder; links are not followed"
                yield _Found(f"{_relative(entry.path, root)}/", entry.path, None, reason)
        waiting += [entry.path for entry in reversed(folders) if not entry.is_symlink()]
        if videos:
            yield from _in_folder(folder, videos, root, inside, labels_inside)


def _in_folder(
    folder: str, videos: Sequence[os.DirEntry[str]], root: Path, inside: Path, labels_inside: Path
) -> Iterator[_Found]:
    """What holds for a whole folder is worked out once."""
    at = _relative(folder, root)
    before = "" if at == "." else f"{at}/"
    labels = str(label_of(Path(folder, "x.mp4"), root).parent)
    reachable = Path(labels).resolve().is_relative_to(labels_inside)
    for entry in videos:
        name = entry.name if entry.name.isascii() else _escaped(entry.name)
        if not _is_utf8(entry.path):
            yield _Found(before + name, entry.path, None, "its name is not UTF-8; rename it")
            continue
        if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(inside):
            yield _Found(before + name, entry.path, None, "a symbolic link that leads out of the data folder")
            continue
        label = f"{labels}/{entry.name.rpartition('.')[0]}.txt"
        try:
            status = os.lstat(label)
        except OSError:
            status = None
        linked = status is not None and S_ISLNK(status.st_mode)
        if not reachable or (linked and not Path(label).resolve().is_relative_to(labels_inside)):
            short = os.path.basename(label)
            reason = f"its caption {short} is reached by a symbolic link out of the data folder"
            yield _Found(before + name, entry.path, None, reason)
            continue
        yield _Found(before + name, entry.path, label, None, None if linked else status)


def _is_video(name: str) -> bool:
    stem, _, suffix = name.rpartition(".")
    return bool(stem) and f".{suffix.lower()}" in VIDEO_SUFFIXES


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _relative(path: str, root: Path) -> str:
    return _escaped(Path(path).relative_to(root).as_posix())


def _escaped(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stamps(video: _Found) -> str:
    """[name, refused, stamp of the video, stamp of its caption] as canonical JSON."""
    refused = "null" if video.refused is None else _quoted(video.refused)
    label = video.label_status
    caption = _stamp(video.label) if label is None else f"[{label.st_size},{label.st_mtime_ns}]"
    return f"[{_quoted(video.name)},{refused},{_stamp(video.path)},{caption}]"


def _stamp(path: str | None) -> str:
    try:
        status = os.stat(path) if path is not None else None
    except OSError:
        return "null"
    return f"[{status.st_size},{status.st_mtime_ns}]" if status else "null"
