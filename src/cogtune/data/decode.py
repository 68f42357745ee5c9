"""Open and decode videos: the module that child processes of `decoder.Decoder` run.

A decoder may abort the whole process on a damaged file, so no other code should call this. It does not import torch, so
that a child starts in 0.2 s.

An unusable file raises `VideoError` with the reason; an OSError (missing file, failed disk) is passed on, because it is
not a fault of the video.
"""

import contextlib
import errno
import itertools
import json
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cogtune.data import seeking
from cogtune.data.container import declared
from cogtune.data.inorder import ShownFrame, shown_frames
from cogtune.data.picture import FrameConverter
from cogtune.data.streams import read_packets
from cogtune.data.video import TimesError, VideoError, VideoInfo
from cogtune.runtime import git_lfs

_SAME_SECONDS = 1e-5
_BATCH = 16
_SPARE_BYTES = 128 << 20
"""What a decoder of 4K video needs for its reference frames. If it is not available, the error is out of memory."""


class Video:
    """An opened video. ``times``: seconds at which each frame is shown, from the packets, or from the decoder with
    ``decode_all``. ``size``: (height, width) after rotation. ``reader``: "pyav" or "decord", which read the latest
    frames."""

    def __init__(self, path: Path, decode_all: bool = False) -> None:
        _check_file(path)
        self._path, self._packets = path, read_packets(path)
        self.fps, self.reader = self._packets.fps, "pyav"
        self.sample_aspect = self._packets.sample_aspect
        self._cursor, self._converter = _Cursor(path), FrameConverter()
        first = self._cursor.at(0)
        if first is None:
            raise VideoError("damaged: its frames cannot be decoded")
        height, width, _ = self._converter.to_rgb(first.frame).shape
        self.size = (height, width)
        self.times = self._packets.times
        offset = first.time - self.times[0]
        if self._packets.guessed:
            self.times = [time + offset for time in self.times]
        self._decoded = decode_all or self._packets.moved or (abs(offset) > _SAME_SECONDS and not self._packets.guessed)
        if self._decoded:
            self.times = [frame.time for frame in shown_frames(path)]
            if any(after < before for before, after in itertools.pairwise(self.times)):
                raise VideoError("the time stamps of its frames run backwards; encode it again (ffmpeg -i IN OUT)")

    def __len__(self) -> int:
        return len(self.times)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """The frames of `each` as one array: uint8 (N, H, W, 3), RGB."""
        return np.stack(list(self.each(indices)))

    def each(self, indices: Sequence[int], times: Sequence[float] | None = None) -> Iterator[np.ndarray]:
        """Yield the frames ``indices`` (each 0 … len - 1): uint8 (H, W, 3), RGB.

        Raises VideoError for a damaged frame, or one that is not shown at its time in ``times``; without ``times``,
        TimesError for a frame that is not shown at the time in its packet.
        """
        if times is None:
            if any(not 0 <= index < len(self) for index in indices):
                raise VideoError(f"it has {len(self)} frames; frames {min(indices)} to {max(indices)} are needed")
            times, error_type = [self.times[index] for index in indices], VideoError if self._decoded else TimesError
        else:
            error_type = VideoError
        self.reader, done = "decord", 0
        for frames in self._by_seeking(indices):
            yield from frames
            done += len(frames)
        if done == len(indices):
            return
        self.reader = "pyav"
        for index, time in zip(indices[done:], times[done:], strict=True):
            shown_frame = self._cursor.at(index)
            if shown_frame is None or abs(shown_frame.time - time) > _SAME_SECONDS:
                raise error_type(f"frame {index} is not shown at {time:.3f} s: the file is damaged, or was replaced")
            yield self._picture(index, shown_frame)

    def info(self) -> VideoInfo:
        """The properties of the video. Raises VideoError."""
        height, width = self.size
        seconds = self.times[-1] - max(0.0, self.times[0]) + 1 / self.fps
        return VideoInfo(len(self), round(self.fps, 4), width, height, round(seconds, 4), self.sample_aspect)

    def _picture(self, index: int, shown_frame: ShownFrame) -> np.ndarray:
        if shown_frame.damaged:
            raise VideoError(
                f"damaged: the clip uses frame {index} ({shown_frame.time:.2f} s), but bytes are missing that this frame needs, or "
                f"the decoder cannot read them"
            )
        picture = self._converter.to_rgb(shown_frame.frame)
        if picture.shape[:2] != self.size:
            raise VideoError(f"the picture changes size at {shown_frame.time:.2f} s; cut the video there")
        return picture

    def _by_seeking(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Read with decord if it is exact and skips at least half of the frames; end early if it reports an error."""
        sections = [] if self._decoded or self._converter.rotated else self._packets.sections
        if list(indices) != sorted(indices) or not _mostly_skipped(sections, indices):
            return
        reader = seeking.opened(self._path, self.times, self.size[1])
        if reader is None:
            return
        for start in range(0, len(indices), _BATCH):
            frames = seeking.frames(reader, indices[start : start + _BATCH])
            if frames is None:
                return
            yield frames


class _Cursor:
    """The frame at an index. Frames are decoded in order; a lower index starts again from the first packet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._restart()

    def _restart(self) -> None:
        self._frames, self._position = shown_frames(self._path), -1
        self._current: ShownFrame | None = None

    def at(self, index: int) -> ShownFrame | None:
        """The frame; None after the last one."""
        if index < self._position:
            self._restart()
        while self._position < index:
            self._current = next(self._frames, None)
            if self._current is None:
                self._restart()
                return None
            self._position += 1
        return self._current


def _mostly_skipped(sections: Sequence[int], indices: Sequence[int]) -> bool:
    """Whether at least half of the frames up to the last of ``indices`` are in sections without a wanted frame."""
    if not sections:
        return False
    section_of = [np.searchsorted(sections, index, "right") - 1 for index in (*indices, indices[-1])]
    wanted = {int(section) for section in section_of}
    ends = [*sections[1:], indices[-1] + 1]
    decoded = sum(min(ends[section], indices[-1] + 1) - sections[section] for section in wanted)
    return 2 * decoded <= indices[-1] + 1


def probe(path: Path) -> VideoInfo:
    """The properties of ``path``, checked against its container's declarations. Raises VideoError.

    Only the first frame is decoded; preprocess decodes the selected ones.
    """
    return Video(path).info()


def _check_file(path: Path) -> None:
    size = path.stat().st_size
    if not size:
        raise VideoError("empty file (0 bytes)")
    if git_lfs.is_pointer_file(path):
        raise VideoError(git_lfs.advice(path))
    header = declared(path)
    if header is not None and header.bytes > size:
        raise VideoError(f"cut short: it has {size:,} of the {header.bytes:,} bytes that its container declares")
    if header is not None and not header.indexed:
        raise VideoError("no index (moov box) in it: the recording or the download was not finished")


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests, one JSON line each, until the end of the stream. A reply is a JSON line; the reply to "frames"
    is a line before the bytes of each frame, and a last line."""
    video: Video | None = None

    def send(reply: dict[str, Any], frame: np.ndarray | None = None) -> None:
        replies.write(json.dumps(reply).encode() + b"\n")
        if frame is not None:
            replies.write(np.ascontiguousarray(frame).data)
        replies.flush()

    for line in requests:
        request = json.loads(line)
        try:
            if request["do"] == "probe":
                send(asdict(probe(Path(request["path"]))))
            elif request["do"] == "open":
                video = Video(Path(request["path"]), request["decode_all"])
                send({"times": video.times, "fps": video.fps, "size": video.size, "sample_aspect": video.sample_aspect})
            else:
                assert video is not None, "a video must be opened before frames are requested"
                for frame in video.each(request["indices"], request["times"]):
                    send({"shape": frame.shape}, frame)
                send({"reader": video.reader})
        except TimesError as error:
            send({"times_differ": str(error)})
        except VideoError as error:
            # Out of memory, ffmpeg's decoders report valid packets as invalid.
            send({"refused": str(error)} if _has_memory() else _no_memory(request))
        except MemoryError:
            video = None  # frees its memory
            send(_no_memory(request))
        except OSError as error:
            send({"os_error": [error.errno, error.strerror, request.get("path")]})


def _has_memory() -> bool:
    """Whether this process can allocate `_SPARE_BYTES`."""
    try:
        mmap.mmap(-1, _SPARE_BYTES).close()
    except OSError:
        return False
    return True


def _no_memory(request: dict[str, Any]) -> dict[str, Any]:
    return {"os_error": [errno.ENOMEM, os.strerror(errno.ENOMEM), request.get("path")]}


if __name__ == "__main__":
    # Only replies go to the pipe; the output of libraries goes to standard error.
    channel = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, channel)
