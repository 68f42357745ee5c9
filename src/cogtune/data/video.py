"""Types for the properties and errors of a video file. Imports no decoder, so that every process can use it."""

from dataclasses import dataclass

READER_VERSION = 2
"""Increase it if the readers return something else for the same file: scan then reads all files again."""


class VideoError(Exception):
    """The file is unusable; the message is the reason."""


class TimesError(VideoError):
    """Frames are not shown at the times in the packets; the whole video must be decoded to determine the times."""


@dataclass(frozen=True)
class VideoInfo:
    """Number of readable ``frames``, average ``fps``, size in pixels after rotation, duration in ``seconds``.
    ``sample_aspect``: width to height of a pixel, usually "1:1"; ignored, as in upstream."""

    frames: int
    fps: float
    width: int
    height: int
    seconds: float
    sample_aspect: str
