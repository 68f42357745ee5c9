"""From data folders to accepted (clip, caption) pairs and rejects with reasons."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cogtune.config.digest import file_digest
from cogtune.data.decode import VideoError, VideoInfo
from cogtune.data.decoder import Decoder
from cogtune.data.listing import ClipRow, Listed, list_videos
from cogtune.data.pipeline import decode_ahead


class CaptionError(Exception):
    """This clip has no usable caption; the message says why."""


@dataclass(frozen=True)
class Reject:
    """A file that is not used. ``name``: relative to its root."""

    name: str
    path: str
    split: str
    reason: str


@dataclass
class Found:
    """What a scan found. ``probed``: files that had to be opened, as the memo did not know them."""

    rows: list[ClipRow] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    several_lines: int = 0
    probed: int = 0


class Memo:
    """What is known of files, by path, size and mtime, so that only new ones are read: one JSON line for each.

    Lines are only ever added, whole, so any number of scans may share the file and any of them may be killed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[str, int, int], tuple[str, VideoInfo]] = {}
        with suppress(FileNotFoundError):
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                with suppress(ValueError, KeyError, TypeError):  # torn, or of another version: read the file again
                    entry = json.loads(line)
                    self._known[entry["path"], entry["size"], entry["mtime"]] = (
                        entry["clip"],
                        VideoInfo(**entry["video"]),
                    )

    def get(self, path: Path, status: os.stat_result) -> tuple[str, VideoInfo] | None:
        """(sha256 of the content, what the video is) of a file that was seen before with this size and mtime."""
        return self._known.get((str(path), status.st_size, status.st_mtime_ns))

    def put(self, path: Path, status: os.stat_result, clip: str, video: VideoInfo) -> None:
        """Remember a file."""
        self._known[str(path), status.st_size, status.st_mtime_ns] = clip, video
        entry = {"path": str(path), "size": status.st_size, "mtime": status.st_mtime_ns, "clip": clip}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry | {"video": asdict(video)}) + "\n")


def scan(
    roots: Mapping[str, Sequence[str | Path]],
    memo: Memo,
    allow_missing_caption: bool = False,
    workers: int = 1,
    on_start: Callable[[int], object] = lambda total: None,
    on_file: Callable[[], object] = lambda: None,
) -> Found:
    """Look at every video below ``roots`` (split -> folders).

    A pair is accepted once in a split: a file of equal content is a duplicate of the first, in order of folders and
    names. The same clip may stand in both splits, as in upstream's own example. ``on_start`` is told how many files
    there are, ``on_file`` after each.
    """
    listed = [
        (split, video) for split, folders in roots.items() for root in folders for video in list_videos(Path(root))
    ]
    on_start(len(listed))
    found, first = Found(), dict[tuple[str, str], str]()

    def look(item: tuple[str, Listed], decoder: Decoder) -> tuple[str, VideoInfo, str, bool]:
        return _look(item[1], memo, allow_missing_caption, decoder)

    for (split, video), result in decode_ahead(listed, look, workers):
        on_file()
        if isinstance(result, Exception):
            found.rejects.append(Reject(video.name, str(video.path), split, _reason(result)))
            continue
        clip, info, caption, new = result
        found.probed += new
        if (split, clip) in first:
            reason = f"duplicate: same content as {first[split, clip]}"
            found.rejects.append(Reject(video.name, str(video.path), split, reason))
            continue
        first[split, clip] = video.name
        found.several_lines += _lines(video.label) > 1
        found.rows.append(_row(split, video, clip, info, caption))
    return found


def read_caption(label: Path | None, allow_missing: bool = False) -> str:
    """The caption in ``label``: all of the file, every run of white space (line ends too) as one space.

    Upstream takes the first line and drops the rest without a word. Raises CaptionError when there is none, unless
    ``allow_missing``: then "" is the caption.
    """
    text = ""
    try:
        text = label.read_text(encoding="utf-8-sig") if label is not None else ""
    except UnicodeDecodeError as error:
        raise CaptionError(f"its caption {label} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except (FileNotFoundError, NotADirectoryError):
        if not allow_missing:
            raise CaptionError(f"no caption: {label} does not exist") from None
    caption = " ".join(text.split())
    if not caption and not allow_missing:
        raise CaptionError(f"no caption: {label} is empty")
    return caption


def _look(video: Listed, memo: Memo, allow_missing: bool, decoder: Decoder) -> tuple[str, VideoInfo, str, bool]:
    """(content hash, what the video is, caption, whether the file was read)."""
    if video.refused is not None:
        raise VideoError(video.refused)
    caption = read_caption(video.label, allow_missing)
    before = video.path.stat()
    known = memo.get(video.path, before)
    if known is not None:
        return *known, caption, False
    info, clip = decoder.probe(video.path), file_digest(video.path)
    after = video.path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise VideoError("it changed while it was read; scan again when it is complete")
    memo.put(video.path, after, clip, info)
    return clip, info, caption, True


def _row(split: str, video: Listed, clip: str, info: VideoInfo, caption: str) -> ClipRow:
    caption_id = hashlib.sha256(caption.encode()).hexdigest()
    size = (info.frames, info.fps, info.width, info.height)
    return ClipRow(clip, str(video.path.absolute()), video.name, split, caption, caption_id, *size)


def _reason(error: Exception) -> str:
    if isinstance(error, VideoError | CaptionError):
        return str(error)
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    raise error


def _lines(label: Path | None) -> int:
    if label is None or not label.exists():
        return 0
    return sum(bool(line.strip()) for line in label.read_text(encoding="utf-8-sig").splitlines())
