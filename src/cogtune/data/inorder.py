"""Decode with PyAV in order from the first packet: correct for every stream that ffmpeg decodes.

With open GOPs, B frames and intra refresh, the frames after a seek depend on the codec. Clips are taken from the first
seconds of a video, so decoding in order costs little.
"""

import errno
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.logging
from av.error import FFmpegError
from av.video.frame import PictureType

from cogtune.data.damage import Damage
from cogtune.data.joined import packets
from cogtune.data.streams import opened, start_of, unreadable
from cogtune.runtime.failures import is_environment_error

_HARMLESS = ("mmco: unref short failure",)
"""Reported for valid H.264 that was cut before an open GOP: an unused frame to be released is missing."""


@dataclass(frozen=True)
class ShownFrame:
    """A decoded frame, shown at ``time`` (seconds). ``damaged``: it depends on damaged data."""

    frame: Any
    time: float
    damaged: bool


def shown_frames(path: Path) -> Iterator[ShownFrame]:
    """All frames that ffmpeg shows, in order. Damaged packets do not raise; their frames are marked as damaged. Raises
    VideoError, OSError."""
    with opened(path) as (container, stream):
        stream.codec_context.copy_opaque = True
        clock, damage = _Clock(start_of(container, stream)), Damage()
        source, not_corrupt = packets(container, stream), set[int]()
        try:
            for number in itertools.count():
                # Decoding uses one thread, so captured messages are about this packet.
                with av.logging.Capture() as messages:
                    joined = next(source, None)
                    frames = _decoded(joined.packet, number) if joined is not None else None
                if joined is None:
                    return
                if joined.packet.is_corrupt and not joined.corrupt:
                    not_corrupt.add(number)
                if frames is None or joined.corrupt or any(text.strip() not in _HARMLESS for _, _, text in messages):
                    damage.add_error(number)
                for frame in frames or ():
                    packet_number = frame.opaque if frame.opaque is not None else number
                    if frame.is_corrupt and packet_number not in not_corrupt:
                        damage.add_error(packet_number)
                    clean = bool(frame.key_frame) and frame.pict_type == PictureType.I
                    yield ShownFrame(frame, clock.read(frame), damage.affects(packet_number, clean))
        except FFmpegError as error:
            raise unreadable(path, error, "damaged or cut short: it cannot be read to its end") from None


def _decoded(packet: Any, number: int) -> list[Any] | None:
    """The frames that the decoder returns for packet ``number``; None if it cannot be decoded."""
    packet.opaque = number
    try:
        return packet.decode()
    except FFmpegError as error:
        if is_environment_error(error) and getattr(error, "errno", 0) != errno.EIO:
            raise  # out of memory or open files: not a fault of the packet
        return None


class _Clock:
    """Computes when frames are shown, like libavcodec (`best_effort_timestamp`) and ffmpeg's command line: if
    presentation times are missing or repeated, as in AVI and damaged files, decoding times are used."""

    def __init__(self, start: float) -> None:
        self._start = start
        self._faulty_pts = self._faulty_dts = 0
        self._last_pts = self._last_dts = -(1 << 63)
        self._last_stamp: int | None = None
        self._step = 1

    def read(self, frame: Any) -> float:
        """Seconds from the start of the file."""
        stamp = self._guess(frame.pts, frame.dts)
        if stamp is None:
            stamp = 0 if self._last_stamp is None else self._last_stamp + self._step
        elif self._last_stamp is not None and stamp > self._last_stamp:
            self._step = stamp - self._last_stamp
        self._last_stamp = stamp
        return float(stamp * frame.time_base) - self._start

    def _guess(self, pts: int | None, dts: int | None) -> int | None:
        if dts is not None:
            self._faulty_dts += dts <= self._last_dts
            self._last_dts = dts
        elif pts is not None:
            self._last_dts = pts
        if pts is not None:
            self._faulty_pts += pts <= self._last_pts
            self._last_pts = pts
        elif dts is not None:
            self._last_pts = dts
        trusted = pts is not None and (self._faulty_pts <= self._faulty_dts or dts is None)
        return pts if trusted else dts
