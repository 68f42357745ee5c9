"""A video file as PyAV sees it before anything is decoded: which stream, and when its packets say that frames are shown.

The rules are those of ffmpeg's command line: the largest picture that is no cover, times from the start of the file,
frames that an edit list hides do not count.
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

# Errors are for `inorder` to capture, each one; nobody prints them.
av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)
logging.getLogger("libav").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Packets:
    """What the packets of a video say, in the order of decoding where nothing else is said.

    ``times``: seconds at which frames are shown, rising, without those that are hidden; ``guessed``: from decoding times,
    as AVI has no others, so that all may be off by the same span. ``fps``: average rate.
    ``moved``: the clock starts again, and packets behind that were moved; at the joint only the decoder knows which frame is
    shown when.
    ``sections``: at which shown frame each section starts that can be decoded by itself; empty unless that is certain
    of every key frame. ``sample_aspect``: width to height of a pixel, "1:1" if not said.
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
        # "file:" keeps a colon in a name from being taken for a protocol.
        container = av.open(f"file:{path}", metadata_errors="replace")
    except FFmpegError as error:
        raise unreadable(path, error, "not a video that can be opened, or its header is damaged") from None
    with container:
        container.flags &= ~ContainerFlags.gen_pts.value  # PyAV makes up what ffmpeg's command line leaves out
        stream = _best(container)
        if stream.codec_context is None:
            raise VideoError(
                "its codec is not supported by this reader; encode it again (ffmpeg -i IN -c:v libx264 OUT)"
            )
        stream.codec_context.thread_count = 1  # clips are decoded side by side, which scales better
        yield container, stream


def _best(container: Any) -> Any:
    """The stream that ffmpeg's command line takes."""

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
    """Seconds at which ffmpeg's clock starts: the earliest stream of the file; in MPEG-TS, of those that are used."""
    if container.format.name == "mpegts" and stream.start_time is not None:
        return float(stream.start_time * stream.time_base)
    return (container.start_time or 0) / av.time_base


def unreadable(path: Path, error: Exception, reason: str) -> Exception:
    """What an error of ffmpeg says of ``path``: an OSError if the machine is at fault, else a VideoError.

    ffmpeg has "Input/output error" for damage too, so the file itself is asked.
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
    """Walk through the packets of ``path``; nothing is decoded. Raises VideoError, OSError."""
    with opened(path) as (container, stream):
        start, base = start_of(container, stream), stream.time_base
        restarts, moved = _Restarts(), False
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
                groups.see(packet)
                if packet.is_discard:  # each part of an edit list begins at a key frame, with times of its own
                    hidden += 1
                    continue
                if packet.dts is not None:
                    restarts.see(float(packet.dts * base) - start)
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
    """VP8 keeps references that are never shown ("alt-ref") in packets of their own: a bit of the header says so."""
    return stream.codec_context.name == "vp8" and not memoryview(packet)[0] >> 4 & 1


class _Restarts:
    """Raises VideoError where the clock starts again in a format in which it must not: players then disagree about which
    frame follows which."""

    def __init__(self) -> None:
        self._last = -math.inf

    def see(self, moment: float) -> None:
        if moment - self._last < -0.5:
            raise VideoError(
                f"its time stamps run backwards, from {self._last:.2f} s to {moment:.2f} s; "
                f"encode it again (ffmpeg -i IN -c:v libx264 OUT)"
            )
        self._last = max(self._last, moment)


class _Groups:
    """Finds the sections of an H.264 stream in mp4 whose every key frame is an IDR picture: nothing behind one is
    predicted from, or shown before, what is in front of it. Of other streams it says nothing."""

    def __init__(self, stream: Any) -> None:
        context = stream.codec_context
        extra = context.extradata or b""
        self.certain = context.name == "h264" and context.pix_fmt == "yuv420p" and extra[:1] == b"\1" and len(extra) > 6
        self._prefix = (extra[4] & 3) + 1 if self.certain else 4
        self._starts: list[tuple[int, int]] = []
        self._count, self._latest = 0, -math.inf

    def see(self, packet: Any) -> None:
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
        place = 0
        while place + self._prefix < len(content):
            kind = content[place + self._prefix] & 31
            if kind in (1, 2, 5):  # the first slice
                return kind == 5
            place += self._prefix + int.from_bytes(content[place : place + self._prefix], "big")
        return False

    def sections(self) -> list[int]:
        return [count for _, count in self._starts] if self.certain else []
