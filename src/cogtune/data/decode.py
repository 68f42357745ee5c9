"""Opening and decoding videos: the only module that imports decord.

decord may abort the whole process on a damaged file (uncaught std::bad_alloc: 5 of 5,700 files that were damaged at
random), so nothing but the child processes of `decoder.Decoder` should call this. No torch here: a child starts in
0.2 s.

A file that cannot be used raises `VideoError` with a reason for people; an OSError (file gone, disk away) passes
through, since it says nothing about the video.
"""

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cogtune.data.container import declared

_LACKING_SHARE, _LACKING_FRAMES = 0.05, 3
"""A video may be this much shorter than its container declares: time stamps are rounded, and tracks seldom end alike."""


class VideoError(Exception):
    """This file cannot be used; the message says why."""


@dataclass(frozen=True)
class VideoInfo:
    """``frames`` that can be read, average ``fps``, size in pixels as shown (rotation applied), ``seconds`` of play."""

    frames: int
    fps: float
    width: int
    height: int
    seconds: float


class Video:
    """An opened video. ``times``: when each frame is shown, in seconds; what an edit cut off in front is negative."""

    def __init__(self, path: Path) -> None:
        _check_file(path)
        self._reader = _open(path)
        try:
            spans = np.asarray(self._reader.get_frame_timestamp(list(range(len(self._reader)))), dtype=np.float64)
            self.fps = float(self._reader.get_avg_fps())
        except Exception as error:
            raise _reason(error) from None
        if not spans.size or not 0 < self.fps < 1e4:
            raise VideoError(f"no usable video track: {len(spans)} frames at {self.fps:g} fps")
        if not (np.abs(spans) < 1e6).all() or (np.diff(spans[:, 0]) < 0).any():
            # AVI has no time stamps; what comes out for some codecs is noise.
            starts = np.arange(len(spans)) / self.fps
            spans = np.stack([starts, starts + 1 / self.fps], axis=1)
        self.times: list[float] = spans[:, 0].tolist()
        end = max(float(spans[-1, 1]), self.times[-1] + 1 / self.fps)
        self.seconds = end - max(0.0, self.times[0])

    def __len__(self) -> int:
        return len(self.times)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Decode ``indices`` (each 0 … len - 1): uint8 (N, H, W, 3), RGB."""
        if any(not 0 <= index < len(self) for index in indices):
            raise VideoError(f"frames {min(indices)} to {max(indices)} were asked for; it has {len(self)}")
        try:
            return self._reader.get_batch(list(indices)).asnumpy()
        except Exception as error:
            if "size must exactly match" not in str(error):
                raise _reason(error) from None
        return np.stack([_without_padding(self._reader[index].asnumpy()) for index in indices])


def probe(path: Path) -> VideoInfo:
    """What is in ``path``, held against what its container declares. Raises VideoError.

    Only the first frame is decoded; that the chosen ones decode is for preprocess to prove.
    """
    video = Video(path)
    promised = _promised_seconds(path)
    lacking = (promised or 0.0) - video.seconds
    if promised and lacking > max(_LACKING_FRAMES / video.fps, _LACKING_SHARE * promised):
        raise VideoError(
            f"cut short: its container declares {promised:.2f} s, {video.seconds:.2f} s of video are there"
        )
    height, width = video.frames([0]).shape[1:3]
    return VideoInfo(len(video), round(video.fps, 4), width, height, round(video.seconds, 4))


def _check_file(path: Path) -> None:
    size = path.stat().st_size
    if not size:
        raise VideoError("empty file (0 bytes)")
    found = declared(path)
    if found is not None and found.bytes > size:
        raise VideoError(f"cut short: it has {size:,} of the {found.bytes:,} bytes that its container declares")
    if found is not None and not found.indexed:
        raise VideoError("no index (moov box) in it: the recording or the download was not finished")


def _promised_seconds(path: Path) -> float | None:
    """How long the video should play. A container's total is that of its longest track, often the sound, so mp4 and mov
    are asked for the video track itself; for other formats ffmpeg reads the total, the best that they tell."""
    found = declared(path)
    if found is not None:
        return found.seconds
    import imageio.v3 as iio

    try:
        seconds = float(iio.immeta(path, plugin="FFMPEG").get("duration") or 0.0)
    except Exception:
        return None
    return seconds if np.isfinite(seconds) and seconds > 0 else None


def _open(path: Path) -> Any:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    with path.open("rb"):
        pass  # an unreadable file is an OSError here, where decord has one word for everything
    try:
        # One thread each: clips are decoded side by side, which scales better than one clip on many threads.
        return decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    except Exception as error:
        raise _reason(error) from None


def _without_padding(frame: np.ndarray) -> np.ndarray:
    """Below 64 pixels of width decord takes the padding of rows for more channels: (32, 48, 4) is 32 rows of 144 bytes
    and 48 of padding."""
    height, width, _ = frame.shape
    return frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


def _reason(error: Exception) -> VideoError:
    """decord's errors are failed checks of C++ code with a stack; what they come to is one of these."""
    text = str(error)
    if "Error reading" in text or "cannot find video stream" in text:
        return VideoError("not a video that can be opened, or its header is damaged")
    if "av_read_frame" in text:
        return VideoError("damaged or cut short: it cannot be read to its end")
    return VideoError("damaged: its frames cannot be decoded")


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests, one JSON line each, until there are no more. Each reply is a JSON line; frames follow it as bytes."""
    video: Video | None = None
    for line in requests:
        asked, frames = json.loads(line), None
        try:
            if asked["do"] == "probe":
                reply = asdict(probe(Path(asked["path"])))
            elif asked["do"] == "open":
                video = Video(Path(asked["path"]))
                reply = {"times": video.times, "fps": video.fps}
            else:
                assert video is not None, "frames are asked for before a video is opened"
                frames = np.ascontiguousarray(video.frames(asked["indices"]))
                reply = {"shape": frames.shape}
        except VideoError as error:
            reply = {"refused": str(error)}
        except OSError as error:
            reply = {"os_error": [error.errno, error.strerror, asked.get("path")]}
        replies.write(json.dumps(reply).encode() + b"\n")
        if frames is not None:
            replies.write(frames.data)
        replies.flush()


if __name__ == "__main__":
    # Replies have the pipe to themselves; whatever a library prints goes where this process's errors go.
    channel = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, channel)
