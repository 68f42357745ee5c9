"""Decoding in a child process: a damaged file may take the child along, never the stage."""

import contextlib
import errno
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from cogtune.data.decode import VideoError, VideoInfo

PATIENCE_SECONDS = 300.0
"""A request that takes longer is given up; hours of 4K video open in less."""


@dataclass(frozen=True)
class Opened:
    """A video that is ready to be decoded: average ``fps``, and when each frame is shown (seconds)."""

    times: list[float]
    fps: float


class Decoder:
    """One child process that decodes, started when first needed and again after a crash. For one thread at a time.

    Every call raises VideoError, with a reason for people, for a file that cannot be used; OSError for one that cannot
    be reached. The child ends with this process: its requests end then.
    """

    def __init__(self, patience: float = PATIENCE_SECONDS) -> None:
        self._patience = patience
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def probe(self, path: Path) -> VideoInfo:
        """Count of frames, rate, size; checked against what the container declares."""
        return VideoInfo(**self._ask({"do": "probe", "path": str(path)})[0])

    def open(self, path: Path) -> Opened:
        """Make ``path`` the video that `frames` decodes."""
        return Opened(**self._ask({"do": "open", "path": str(path)})[0])

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Frames of the opened video: uint8 (N, H, W, 3), RGB."""
        _, frames = self._ask({"do": "frames", "indices": list(indices)})
        assert frames is not None
        return frames

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is None:
            return
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | None]:
        child = self._child = self._child or self._start()
        requests, replies = cast(BinaryIO, child.stdin), cast(BufferedReader, child.stdout)
        expired = threading.Event()
        watch = threading.Timer(self._patience, lambda: (expired.set(), child.kill()))
        watch.daemon = True
        watch.start()
        try:
            requests.write(json.dumps(request).encode() + b"\n")
            requests.flush()
            reply = json.loads(replies.readline() or "null")
            frames = None
            if reply is not None and "shape" in reply:
                frames = np.empty(reply["shape"], dtype=np.uint8)
                if replies.readinto(frames.data.cast("B")) != frames.nbytes:
                    reply = None
        except (BrokenPipeError, ValueError):  # it died before, or in the middle of a line
            reply = frames = None
        finally:
            watch.cancel()
        if reply is None:
            raise self._fallen(expired.is_set())
        if "refused" in reply:
            raise VideoError(reply["refused"])
        if "os_error" in reply:
            raise OSError(*reply["os_error"])
        return reply, frames

    def _fallen(self, expired: bool) -> VideoError | OSError:
        child = self._child
        assert child is not None
        self.close()
        if expired:
            return VideoError(f"decoding was given up after {self._patience:.0f} s")
        code = child.returncode
        if code == -signal.SIGKILL:  # no file does that: the kernel does, when memory runs out
            return OSError(errno.ENOMEM, "the decoder was killed, most likely because memory ran out")
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return VideoError(f"damaged: the decoder crashed on it ({name})")

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "cogtune.data.decode"]
        # decord's and ffmpeg's own lines say nothing that the reasons do not; they go nowhere.
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=1 << 20
        )
