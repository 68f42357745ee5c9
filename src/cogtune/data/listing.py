"""List data folders, and read and write the manifest of scan. Does not import torch: the Snakefile uses it at
parsing."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from json.encoder import encode_basestring as _quoted
from pathlib import Path
from typing import NamedTuple

from cogtune.data.caption_list import ListedCaption, read_caption_list
from cogtune.data.walk import WalkEntry, escaped, walk
from cogtune.errors import UserError
from cogtune.runtime.atomic import write_changed
from cogtune.runtime.failures import machine_error_message
from cogtune.runtime.paths import quoted
from cogtune.runtime.saved import how_to_repair
from cogtune.runtime.sums import check_sums

_ROWS_AT_ONCE = 4096
_DIGEST = re.compile(r"[0-9a-f]{64}").fullmatch
_CLIP, _CAPTION_ID, _DIGITS = b'{"clip": "', b'"caption_id": "', 64


@dataclass(frozen=True)
class ClipRow:
    """One accepted (clip, caption) pair.

    ``clip``: sha256 of the file's content, 64 hex digits. ``name``: path relative to its root, with slashes. ``split``:
    "train" or "valid". ``caption_id``: sha256 of the caption in UTF-8. ``fps``: average rate. Sizes are in
    pixels. ``target``: the real path if ``path`` contains a symbolic link.
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
    target: str = ""


@dataclass(frozen=True)
class Reject:
    """A file that is not used. ``name``: path relative to its root. ``files``: number of files if it is a summary of
    other files, else 0."""

    name: str
    path: str
    split: str
    reason: str
    files: int = 0


@dataclass(frozen=True)
class Listed:
    """One video of a data folder, or a summary of other files. ``refused``: why it is not opened. ``target``: the real
    path if it is reached through a link. ``files``: number of files in a summary, else 0. ``listed``: its row in the
    folder's list of captions, ``captions``: that list; None without one."""

    name: str
    path: Path
    label: Path | None
    refused: str | None = None
    target: str = ""
    files: int = 0
    listed: ListedCaption | None = None
    captions: Path | None = None


def list_videos(root: Path, follow_links: bool = True) -> Iterator[Listed]:
    """All videos below ``root``, in a fixed order, and a summary for each kind of other files; see `walk`. Rows of the list
    of captions without a video come last, as refused videos. Raises UserError, also for an invalid list."""
    rows, captions = dict[str, ListedCaption](), None
    for entry in walk(root, follow_links):
        if entry.has_captions:
            captions = Path(entry.path)
            rows = read_caption_list(captions)
            continue
        label, target = None if entry.label is None else Path(entry.label), escaped(entry.target or "")
        row = None if entry.files else rows.pop(entry.name, None)
        yield Listed(entry.name, Path(entry.path), label, entry.refused, target, entry.files, row, captions)
    for name, row in rows.items():
        yield Listed(name, root / name, None, f"no such video: {row.place} names {quoted(name)}")


def fingerprint(roots: Mapping[str, Sequence[str | os.PathLike[str]]], follow_links: bool = True) -> str:
    """A digest that changes if a scan of ``roots`` (split -> folders) could give another result.

    It covers the paths of the folders, the relative path, size and mtime in ns of every video, caption and list of
    captions, the targets of links, and the number of other files of each kind; no file is opened. The result of a scan is keyed by content,
    so a `touch` only repeats the scan. The value is `runtime.digest.digest` of
    [[split, folder, [[name, refused, stamp, stamp, target], …]], …], hashed incrementally: as one value, a million
    clips would need half a minute and a gigabyte. Raises UserError for a folder that cannot be listed.
    """
    state, comma = hashlib.sha256(b"["), b""
    for split, folders in sorted(roots.items()):
        for root in folders:
            state.update(comma + f"[{_quoted(split)},{_quoted(escaped(os.path.realpath(root)))},[".encode())
            comma, rows = b",", 0
            for chunk in _batched((_stamps(entry) for entry in walk(Path(root), follow_links)), _ROWS_AT_ONCE):
                state.update(("," * bool(rows) + ",".join(chunk)).encode())
                rows += len(chunk)
            state.update(b"]]")
    state.update(b"]")
    return state.hexdigest()


def write_manifest(path: Path, rows: Iterable[ClipRow]) -> None:
    """Write one JSON object per line, sorted by (split, clip). An empty ``target`` is omitted."""
    ordered = sorted(rows, key=lambda row: (row.split, row.clip))
    entries = ({name: value for name, value in asdict(row).items() if value or name != "target"} for row in ordered)
    write_changed(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in entries))


def read_manifest(path: Path) -> list[ClipRow]:
    """The rows that `write_manifest` wrote. Raises UserError if it is missing or invalid."""
    try:
        check_sums(path)
        return [_checked(ClipRow(**json.loads(line))) for line in path.read_text("utf-8").split("\n") if line]
    except FileNotFoundError:
        raise UserError(f"{path}: no manifest; {how_to_repair(path.parent)}") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a manifest of this version ({error}); {how_to_repair(path.parent)}") from None


def _checked(row: ClipRow) -> ClipRow:
    """The row, if scan can have written it: ids are digests, and the path is absolute. Raises ValueError otherwise."""
    if not (_DIGEST(row.clip) and _DIGEST(row.caption_id)):
        raise ValueError(
            f"clip and caption_id: expected 64 hex digits; found {quoted(row.clip)} and {quoted(row.caption_id)}"
        )
    if not row.path.startswith("/") or "\0" in row.path or "/../" in f"{row.path}/":
        raise ValueError(f"expected an absolute path of a file; found {quoted(row.path)}")
    return row


class Columns(NamedTuple):
    """A manifest's clips, caption ids and splits, row by row."""

    clips: list[str]
    captions: list[str]
    splits: list[str]


def assumed_columns(count: int) -> Columns:
    """``count`` different training clips with captions of their own, where a plan has no data to look at."""
    names = [hashlib.sha256(f"assumed clip {number}".encode()).hexdigest() for number in range(count)]
    return Columns(names, names, ["train"] * count)


def read_columns(path: Path) -> Columns:
    """Three columns of a manifest: 1 microsecond per row, where parsing takes 7. Raises UserError as
    `read_manifest`."""
    columns = Columns([], [], [])
    try:
        check_sums(path)
        with path.open("rb") as lines:
            for line in lines:
                # Keys are in the order of ClipRow, and quotation marks in values are escaped.
                caption = line.rindex(_CAPTION_ID) + len(_CAPTION_ID)
                columns.clips.append(line[len(_CLIP) : len(_CLIP) + _DIGITS].decode())
                columns.captions.append(line[caption : caption + _DIGITS].decode())
                columns.splits.append("train" if b'"split": "train"' in line else "valid")
                if not line.startswith(_CLIP):
                    raise ValueError("a row does not begin with its clip")
    except FileNotFoundError:
        raise UserError(f"{path}: no manifest; {how_to_repair(path.parent)}") from None
    except ValueError as error:
        raise UserError(f"{path}: not a manifest of this version ({error}); {how_to_repair(path.parent)}") from None
    return columns


def _batched(rows: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, size)):
        yield batch


def _stamps(video: WalkEntry) -> str:
    """[name, refused, stamp of the video, stamp of its caption, target of a link] as canonical JSON."""
    if video.refused is not None:  # scan only reports this text and does not open the file
        return f"[{_quoted(video.name)},{_quoted(video.refused)},null,null,null]"
    label = video.label_status
    caption = _stamp(video.label) if label is None else f"[{label.st_size},{label.st_mtime_ns}]"
    target = "null" if video.target is None else _quoted(escaped(video.target))
    return f"[{_quoted(video.name)},null,{_stamp(video.path)},{caption},{target}]"


def _stamp(path: str | None) -> str:
    try:
        status = os.stat(path) if path is not None else None
    except OSError as error:
        if fault := machine_error_message(error, escaped(str(path))):
            raise UserError(fault) from None
        return "null"
    return f"[{status.st_size},{status.st_mtime_ns}]" if status else "null"
