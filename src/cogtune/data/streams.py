"""Read the packets of a video with PyAV, without decoding: select the stream, and compute when frames are shown.

The rules are those of ffmpeg's command line: the largest stream that is not a cover picture, times relative to the
start of the file, frames hidden by an edit list do not count.
"""

import errno
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.logging
from av.container import Flags as ContainerFlags
from av.error import FFmpegError
from av.stream import Disposition

from cogtune.data.joined import packets
from cogtune.data.video import VideoError
from cogtune.runtime.failures import is_environment_error

# `inorder` captures each error; none is printed.
av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)
logging.getLogger("libav").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Packets:
    """What the packets of a video contain.

    ``times``: seconds at which frames are shown, ascending, without hidden frames. ``guessed``: they are decoding
    times, because AVI has no others, and may all be off by the same offset. ``fps``: average rate.
    ``moved``: the clock restarts, and later packets were moved; near the restart only the decoder knows when a frame is
    shown.
    ``sections``: index of the first shown frame of each section that can be decoded on its own; empty unless this is
    certain for every key frame. ``sample_aspect``: width to height of a pixel, "1:1" if unknown.
    """

    times: list[float]
    guessed: bool
    moved: bool
    fps: float
    sections: list[int]
    sample_aspect: str


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """(container, stream) of the video in ``path``. Raises VideoError, OSError."""
    try:
        # Without "file:", a name with a colon would be read as a protocol.
        container = av.open(f"file:{path}", metadata_errors="replace")
    except FFmpegError as error:
        raise unreadable(path, error, "not a video that can be opened, or its header is damaged") from None
    with container:
        container.flags &= ~ContainerFlags.gen_pts.value  # PyAV generates times that ffmpeg's command line does not
        stream = _best(container)
        if stream.codec_context is None:
            raise VideoError(
                "its codec is not supported by this reader; encode it again (ffmpeg -i IN -c:v libx264 OUT)"
            )
        stream.codec_context.thread_count = 1  # clips are decoded in parallel, which scales better
        yield container, stream


def _best(container: Any) -> Any:
    """The stream that ffmpeg's command line selects."""

    def score(stream: Any) -> int:
        if stream.disposition & Disposition.attached_pic:
            return 1
        context = stream.codec_context
        size = context.width * context.height if context is not None else 0
        return size + 100_000_000 * bool(stream.disposition & Disposition.default)

    if not container.streams.video:
        raise VideoError("no video in it")
    best = max(container.streams.video, key=score)
    if best.disposition & Disposition.attached_pic:
        raise VideoError("no video in it, only a cover picture")
    return best


def start_of(container: Any, stream: Any) -> float:
    """Seconds at which ffmpeg's clock starts: the start of the earliest stream; in MPEG-TS, of the selected stream."""
    if container.format.name == "mpegts" and stream.start_time is not None:
        return float(stream.start_time * stream.time_base)
    return (container.start_time or 0) / av.time_base


def unreadable(path: Path, error: Exception, reason: str) -> Exception:
    """The exception for an error of ffmpeg in ``path``: an OSError for a failure of the machine, else a VideoError.

    ffmpeg reports "Input/output error" for damaged files too, so the file is read to distinguish the two.
    """
    if isinstance(error, MemoryError) or (is_environment_error(error) and getattr(error, "errno", 0) != errno.EIO):
        return error
    if isinstance(error, OSError):
        try:
            with path.open("rb") as stream:
                while stream.read(1 << 20):
                    pass
        except OSError as failed:
            return failed
    return VideoError(reason)


def read_packets(path: Path) -> Packets:
    """Read all packets of ``path`` without decoding. Raises VideoError, OSError."""
    with opened(path) as (container, stream):
        start, base = start_of(container, stream), stream.time_base
        restarts, moved = _RestartCheck(), False
        stamps, hidden, unstamped, guessed, groups = list[float](), 0, 0, False, _Groups(stream)
        try:
            for joined in packets(container, stream):
                packet, moved = joined.packet, moved or joined.moved
                stamp = packet.pts if packet.pts is not None else packet.dts
                if not packet.size:
                    continue
                if stamp is None:
                    unstamped += 1
                    continue
                guessed = guessed or packet.pts is None
                groups.add(packet)
                if packet.is_discard:  # each part of an edit list begins at a key frame and has its own times
                    hidden += 1
                    continue
                if packet.dts is not None:
                    restarts.add(float(packet.dts * base) - start)
                if not _is_never_shown(stream, packet):
                    stamps.append(float(stamp * base) - start)
        except FFmpegError as error:
            raise unreadable(path, error, "damaged or cut short: it cannot be read to its end") from None
        stamps.sort()
        fps = float(stream.average_rate or 0)
        measured = (len(stamps) - 1) / (stamps[-1] - stamps[0]) if len(stamps) > 1 and stamps[-1] > stamps[0] else fps
        if hidden or not measured / 2 < fps < measured * 2:  # H.264 in AVI may claim 600
            fps = measured
        if unstamped and not stamps:
            raise VideoError("its frames have no times (a raw stream); encode it again (ffmpeg -i IN -c:v libx264 OUT)")
        if not stamps or not 0 < fps < 1e4:
            raise VideoError(f"no usable video track: {len(stamps)} frames at {fps:g} fps")
        ratio = stream.sample_aspect_ratio
        aspect = f"{ratio.numerator}:{ratio.denominator}" if ratio else "1:1"
        return Packets(stamps, guessed, moved, fps, [] if hidden else groups.sections(), aspect)


def _is_never_shown(stream: Any, packet: Any) -> bool:
    """Whether the packet is a reference frame of VP8 that is never shown ("alt-ref"), according to a bit of its
    header."""
    return stream.codec_context.name == "vp8" and not memoryview(packet)[0] >> 4 & 1


class _RestartCheck:
    """Raises VideoError if the clock restarts in a format that does not allow it: players then show frames in different
    orders."""

    def __init__(self) -> None:
        self._last = -math.inf

    def add(self, seconds: float) -> None:
        if seconds - self._last < -0.5:
            raise VideoError(
                f"its time stamps run backwards, from {self._last:.2f} s to {seconds:.2f} s; "
                f"encode it again (ffmpeg -i IN -c:v libx264 OUT)"
            )
        self._last = max(self._last, seconds)


class _Groups:
    """The sections of an H.264 stream in mp4 if every key frame is an IDR picture: later frames do not depend on
    earlier ones, and are shown after them. Other streams have no sections."""

    def __init__(self, stream: Any) -> None:
        context = stream.codec_context
        extra = context.extradata or b""
        self.certain = context.name == "h264" and context.pix_fmt == "yuv420p" and extra[:1] == b"\1" and len(extra) > 6
        self._prefix = (extra[4] & 3) + 1 if self.certain else 4
        self._starts: list[tuple[int, int]] = []
        self._count, self._latest = 0, -math.inf

    def add(self, packet: Any) -> None:
        if not self.certain:
            return
        stamp = packet.pts
        if stamp is None or packet.is_corrupt:
            self.certain = False
        elif packet.is_keyframe:
            self.certain = stamp > self._latest and self._is_idr(bytes(packet))
            self._starts.append((stamp, self._count))
        else:
            self.certain = bool(self._starts) and stamp > self._starts[-1][0]
        if stamp is not None:
            self._latest = max(self._latest, stamp)
            self._count += 1

    def _is_idr(self, content: bytes) -> bool:
        position = 0
        while position + self._prefix < len(content):
            kind = content[position + self._prefix] & 31
            if kind in (1, 2, 5):  # the first slice
                return kind == 5
            position += self._prefix + int.from_bytes(content[position : position + self._prefix], "big")
        return False

    def sections(self) -> list[int]:
        return [count for _, count in self._starts] if self.certain else []
