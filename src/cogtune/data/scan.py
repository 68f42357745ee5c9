"""Scan data folders: accept (clip, caption) pairs, reject other videos with a reason."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from stat import S_ISREG

from cogtune.data.caption_list import LONGEST_CAPTION
from cogtune.data.decoder import Decoder
from cogtune.data.listing import ClipRow, Listed, Reject, list_videos
from cogtune.data.pipeline import decode_ahead, retry_damaged
from cogtune.data.video import READER_VERSION, VideoError, VideoInfo
from cogtune.data.walk import escaped
from cogtune.errors import UserError
from cogtune.runtime import git_lfs
from cogtune.runtime.atomic import write_text
from cogtune.runtime.digest import file_digest
from cogtune.runtime.failures import machine_error_message
from cogtune.runtime.jsonl import checked_line, read_line


class CaptionError(Exception):
    """This clip has no usable caption; the message says why."""


@dataclass
class ScanResult:
    """The result of a scan. ``others``: a summary for each kind of files that are not videos; they do not count as
    rejects. ``several_lines``: captions of more than one line. ``probed``: usable files that were opened; ``known``:
    files taken from the memo. ``sample_aspects``: number of clips by `VideoInfo.sample_aspect`."""

    rows: list[ClipRow] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    others: list[Reject] = field(default_factory=list)
    several_lines: int = 0
    probed: int = 0
    known: int = 0
    sample_aspects: Counter[str] = field(default_factory=Counter)


class Memo:
    """Cached results of `probe` by path, size and mtime, so that only new files are read. One JSON line per file, with
    a checksum, because a wrong clip or rate would go into the manifest of every later scan.

    Whole lines are appended and never changed, so several scans may share the file, and any of them may be killed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[str, int, int], tuple[str, VideoInfo]] = {}
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        except FileNotFoundError:
            lines = []
        except OSError as error:
            raise _memo_error(path, error) from None
        for line in lines:
            # If the line is truncated, damaged or of another version, the video is read again.
            with suppress(ValueError, KeyError, TypeError):
                entry = read_line(line)
                if entry["reader"] != READER_VERSION:
                    continue
                video = VideoInfo(**entry["video"])
                self._known[entry["path"], entry["size"], entry["mtime"]] = entry["clip"], video

    @staticmethod
    def damaged_lines(path: Path) -> int:
        """The number of lines that are damaged, or truncated because a scan was killed."""
        return sum(not _is_valid(line) for line in _lines(path))

    @staticmethod
    def mend(path: Path) -> None:
        """Remove invalid lines. Lines that a scan adds at the same time may be lost; their videos are then read
        again."""
        write_text(path, "".join(f"{line}\n" for line in _lines(path) if _is_valid(line)))

    def get(self, path: Path, status: os.stat_result) -> tuple[str, VideoInfo] | None:
        """(sha256 of the content, info) of a file that was read before with this size and mtime, else None."""
        return self._known.get((str(path), status.st_size, status.st_mtime_ns))

    def put(self, path: Path, status: os.stat_result, clip: str, video: VideoInfo) -> None:
        """Add a file. Raises UserError if the memo cannot be written, which is not a fault of the video."""
        self._known[str(path), status.st_size, status.st_mtime_ns] = clip, video
        entry = {"path": str(path), "size": status.st_size, "mtime": status.st_mtime_ns, "clip": clip}
        entry["reader"] = READER_VERSION
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(checked_line(entry | {"video": asdict(video)}))
        except OSError as error:
            raise _memo_error(self._path, error) from None


def _lines(memo: Path) -> list[str]:
    return [line for line in memo.read_text(encoding="utf-8", errors="replace").split("\n") if line]


def _is_valid(line: str) -> bool:
    try:
        read_line(line)
    except (ValueError, RecursionError):
        return False
    return True


def _memo_error(path: Path, error: OSError) -> UserError:
    return UserError(machine_error_message(error, path) or f"{path}: cannot be read and written: {error.strerror}")


def scan(
    roots: Mapping[str, Sequence[str | Path]],
    memo: Memo,
    allow_missing_caption: bool = False,
    follow_links: bool = True,
    workers: int = 1,
    on_start: Callable[[int], object] = lambda total: None,
    on_file: Callable[[], object] = lambda: None,
) -> ScanResult:
    """Check every video below ``roots`` (split -> folders).

    A clip is accepted once per split; files of equal content are rejected as duplicates of the first one, in order of
    folders and names, real files before linked ones. A clip may be in both splits, as in upstream's example.
    ``on_start`` gets the number of files; ``on_file`` is called after each. Raises UserError for a failure of the
    machine, because only a fault of the file itself rejects it.
    """
    listed = [
        (split, video)
        for split, folders in roots.items()
        for root in folders
        for video in list_videos(Path(root), follow_links)
    ]
    scanned, first = ScanResult(), dict[tuple[str, str], str]()
    scanned.others = [_reject(*item, item[1].refused or "", item[1].files) for item in listed if item[1].files]
    videos = sorted((item for item in listed if not item[1].files), key=lambda item: bool(item[1].target))
    on_start(len(videos))

    def scan_item(item: tuple[str, Listed], decoder: Decoder) -> _ScannedFile:
        return _scan_file(item[1], memo, allow_missing_caption, decoder)

    for (split, video), result in decode_ahead(videos, scan_item, workers):
        on_file()
        if isinstance(result, Exception):
            scanned.rejects.append(_reject(split, video, _reason(video.path, result)))
            continue
        scanned.probed += result.new
        scanned.known += not result.new
        if (split, result.clip) in first:
            reason = f"duplicate: same content as {first[split, result.clip]}"
            scanned.rejects.append(_reject(split, video, reason))
            continue
        first[split, result.clip] = video.name
        scanned.several_lines += result.several_lines
        scanned.sample_aspects[result.video.sample_aspect] += 1
        scanned.rows.append(_row(split, video, result))
    return scanned


def read_caption(label: Path | None, allow_missing: bool = False) -> str:
    """The caption in ``label``: the whole file, with each run of white space (line ends included) as one space.

    Upstream silently ignores all lines but the first. Raises CaptionError if there is no caption; with
    ``allow_missing`` the caption is "". Raises OSError if the file cannot be read.
    """
    return _caption(_text_of(label), label, allow_missing)


def caption_of(video: Listed, allow_missing: bool = False) -> str:
    """The caption of a clip, from the folder's list of captions or from its own file; otherwise as `read_caption`.

    Raises CaptionError also if the two differ.
    """
    return _caption_and_text(video, allow_missing)[0]


def _caption_and_text(video: Listed, allow_missing: bool) -> tuple[str, str]:
    """The caption, and the text as it is written."""
    text, row = _text_of(video.label), video.listed
    if row is None:
        unlisted = f", and {video.captions} has no row for it" if video.captions else ""
        return _caption(text, video.label, allow_missing, unlisted), text or ""
    if text and text.split() and text.split() != row.text.split():
        raise CaptionError(f"two captions that differ: {row.place} and {video.label}; remove one")
    return _caption(row.text, row.place, allow_missing), row.text


def _caption(text: str | None, place: Path | str | None, allow_missing: bool, unlisted: str = "") -> str:
    caption = " ".join((text or "").split())
    if any(letter.isprintable() and letter != " " for letter in caption):
        return caption
    if not allow_missing:  # zero-width spaces, direction marks and the like are not a caption
        raise CaptionError(f"no caption: {place} {'does not exist' if text is None else 'is empty'}{unlisted}")
    return ""


def _text_of(label: Path | None) -> str | None:
    """The text of a caption file; None if the file does not exist."""
    if label is None:
        return None
    try:
        # Without O_NONBLOCK, opening a FIFO without a writer would block the scan forever.
        descriptor = os.open(label, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with open(descriptor, "rb") as file:
        if not S_ISREG(os.fstat(file.fileno()).st_mode):
            raise CaptionError(f"its caption {label} is not a regular file")
        content = file.read(LONGEST_CAPTION + 1)
    if len(content) > LONGEST_CAPTION:
        raise CaptionError(f"its caption {label} has more than {LONGEST_CAPTION} bytes; is it a caption?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CaptionError(f"its caption {label} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    if git_lfs.is_pointer(content):
        raise CaptionError(f"its caption {label} {git_lfs.advice(label)}")
    if "\0" in text:
        raise CaptionError(f"its caption {label} holds NUL characters, as UTF-16 does; save it as UTF-8")
    return text


@dataclass(frozen=True)
class _ScannedFile:
    """``clip``: sha256 of the content. ``new``: the file was read, not taken from the memo."""

    clip: str
    video: VideoInfo
    caption: str
    several_lines: bool
    new: bool


def _scan_file(video: Listed, memo: Memo, allow_missing: bool, decoder: Decoder) -> _ScannedFile:
    if video.refused is not None:
        raise VideoError(video.refused)
    caption, text = _caption_and_text(video, allow_missing)
    several = sum(bool(line.strip()) for line in text.splitlines()) > 1
    before = video.path.stat()
    known = memo.get(video.path, before)
    if known is not None:
        return _ScannedFile(*known, caption, several, False)
    if not S_ISREG(before.st_mode):
        raise VideoError("not a regular file any more; it changed while the folder was read")
    # Read the bytes first: here a disk error can be distinguished from a damaged video.
    clip = file_digest(video.path)
    info = retry_damaged(video.path, lambda: decoder.probe(video.path))
    after = video.path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise VideoError("it changed while it was read; scan again when it is complete")
    memo.put(video.path, after, clip, info)
    return _ScannedFile(clip, info, caption, several, True)


def _row(split: str, video: Listed, scanned: _ScannedFile) -> ClipRow:
    caption_id, info = hashlib.sha256(scanned.caption.encode()).hexdigest(), scanned.video
    size = (info.frames, info.fps, info.width, info.height)
    path = str(video.path.absolute())
    return ClipRow(scanned.clip, path, video.name, split, scanned.caption, caption_id, *size, video.target)


def _reject(split: str, video: Listed, reason: str, files: int = 0) -> Reject:
    return Reject(video.name, escaped(str(video.path)), split, reason, files)


def _reason(path: Path, error: Exception) -> str:
    """Why a file is rejected. Raises errors that are not a fault of the file."""
    if fault := machine_error_message(error, path):
        raise UserError(fault) from error
    if isinstance(error, VideoError | CaptionError):
        return str(error)
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    raise error
