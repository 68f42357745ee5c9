"""What is said of a video file, in whatever process: no decoder is imported here."""

from dataclasses import dataclass

READER_VERSION = 2
"""Raised when the readers say something else of the same file: what scan remembers of files is then read again."""


class VideoError(Exception):
    """This file cannot be used; the message says why."""


class TimesError(VideoError):
    """Frames are not shown when the packets say; all of the video has to be decoded to know."""


@dataclass(frozen=True)
class VideoInfo:
    """``frames`` that can be read, average ``fps``, size in pixels as shown (rotation applied), ``seconds`` of play.
    ``sample_aspect``: width to height of a pixel, which is ignored (as upstream does); "1:1" for nearly all."""

    frames: int
    fps: float
    width: int
    height: int
    seconds: float
    sample_aspect: str
