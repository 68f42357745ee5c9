"""Decodes in a child process, so that a damaged file can crash the child but not the stage."""

import contextlib
import errno
import json
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np

from cogtune.data.video import TimesError, VideoError, VideoInfo
from cogtune.errors import UserError
from cogtune.runtime.failures import machine_error_message

_COMMAND = [sys.executable, "-m", "cogtune.data.decode"]
PATIENCE_SECONDS = 300.0
"""Timeout of a request; opening hours of 4K video takes less."""
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
"""Signals that a damaged file can cause; other signals are from other processes."""
_NO_MEMORY = re.compile(r"bad_alloc|bad allocation|MemoryError|[Cc]annot allocate memory")
_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Opened:
    """A video that is ready to be decoded. ``times``: presentation time of each frame, in seconds; ``fps``: the average;
    ``size``: (height, width); ``sample_aspect``: see `video.VideoInfo`."""

    times: list[float]
    fps: float
    size: list[int]
    sample_aspect: str


class Decoder:
    """A child process that decodes, started on first use and again after a crash. Not thread-safe.

    Every call raises VideoError, with a readable reason, for an unusable file, and OSError for one that cannot be read.
    The child ends with this process, because its standard input is closed then.
    """

    def __init__(self, patience: float = PATIENCE_SECONDS) -> None:
        self._patience = patience
        self._child: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self.reader = ""
        """Library that decoded the latest frames: "pyav" or "decord"."""

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def probe(self, path: Path) -> VideoInfo:
        """Number of frames, rate and size, checked against the header of the container."""
        return VideoInfo(**self._ask({"do": "probe", "path": str(path)}))

    def open(self, path: Path, decode_all: bool = False) -> Opened:
        """Open the video for `frames`. ``decode_all``: determine the times by decoding all frames."""
        return Opened(**self._ask({"do": "open", "path": str(path), "decode_all": decode_all}))

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Frames of the opened video: uint8 (N, H, W, 3), RGB."""
        return np.stack(list(self.each(indices)))

    def each(self, indices: Sequence[int], times: Sequence[float] | None = None) -> Iterator[np.ndarray]:
        """Frames of the opened video one by one, each uint8 (H, W, 3), RGB; the next is decoded in the meantime.

        ``times``: expected presentation times. Default: those of `open`; TimesError is raised if they are wrong, then
        open the video again with ``decode_all``.
        """
        request: dict[str, Any] | None = {"do": "frames", "indices": list(indices), "times": times and list(times)}
        complete = False
        try:
            while "reader" not in (reply := self._ask(request)):
                request = None
                yield self._read(reply["shape"])
            self.reader, complete = str(reply["reader"]), True
        except (VideoError, OSError):
            complete = True
            raise
        finally:
            if not complete:
                self.close()  # the rest of its reply will not be read

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

    def _ask(self, request: dict[str, Any] | None) -> dict[str, Any]:
        """The reply to ``request``, or for None the next reply to the previous one. Raises the error in the reply, or the
        reason why the child ended."""
        child = self._child = self._child or self._start()
        requests, replies = cast(BinaryIO, child.stdin), cast(BufferedReader, child.stdout)
        with self._watched(child) as expired:
            try:
                if request is not None:
                    requests.write(json.dumps(request).encode() + b"\n")
                    requests.flush()
                reply = json.loads(replies.readline() or "null")
            except (BrokenPipeError, ValueError):  # the child ended before or within a line
                reply = None
        if reply is None:
            raise self._fallen(expired.is_set())
        if "times_differ" in reply:
            raise TimesError(reply["times_differ"])
        if "refused" in reply:
            raise VideoError(reply["refused"])
        if "os_error" in reply:
            raise OSError(*reply["os_error"])
        return reply

    def _read(self, shape: Sequence[int]) -> np.ndarray:
        """Read the frame that follows a reply."""
        child = self._child
        assert child is not None
        frame = np.empty(shape, dtype=np.uint8)
        with self._watched(child) as expired:
            count = cast(BufferedReader, child.stdout).readinto(frame.data.cast("B"))
        if count != frame.nbytes:
            raise self._fallen(expired.is_set())
        return frame

    @contextlib.contextmanager
    def _watched(self, child: subprocess.Popen[bytes]) -> Iterator[threading.Event]:
        """Kill ``child`` after the timeout; the event is set then."""
        expired = threading.Event()
        watch = threading.Timer(self._patience, lambda: (expired.set(), child.kill()))
        watch.daemon = True
        watch.start()
        try:
            yield expired
        finally:
            watch.cancel()

    def _fallen(self, expired: bool) -> VideoError | OSError | UserError:
        child = self._child
        assert child is not None
        self.close()
        last_words = self._last_words()
        if expired:
            return VideoError(f"decoding took longer than {self._patience:g} s")
        code = child.returncode
        if code == -signal.SIGKILL:  # not caused by a file; the kernel kills it if memory runs out
            return OSError(errno.ENOMEM, "the decoder was killed, most likely because memory ran out")
        if code > 0 and subprocess.run(_COMMAND, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
            return _not_started(f"exit code {code}")  # without any file
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if _NO_MEMORY.search(last_words):  # C++ libraries abort
            return OSError(errno.ENOMEM, f"the decoder ended for lack of memory ({name})")
        if code < 0 and -code not in _CRASHES:
            return UserError(f"the decoder process was ended by {name}, which is not caused by a file; run again")
        return VideoError(f"damaged: the decoder crashed on it ({name})")

    def _last_words(self) -> str:
        """The end of the child's standard error."""
        if self._errors is None:
            return ""
        size = self._errors.seek(0, 2)
        self._errors.seek(max(0, size - _TAIL_BYTES))
        return self._errors.read().decode(errors="replace")

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            # Only the end of it is used, and only after a crash.
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115
            return subprocess.Popen(
                _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=1 << 20
            )
        except OSError as error:
            if message := machine_error_message(error, tempfile.gettempdir()):
                raise UserError(message) from None
            raise _not_started(str(error)) from None


def _not_started(why: str) -> UserError:
    """The error if the child does not start: not caused by a video, otherwise all videos would be rejected."""
    return UserError(
        f"the decoder process does not start ({why}); run `{shlex.join(_COMMAND)} < /dev/null` for details"
    )
