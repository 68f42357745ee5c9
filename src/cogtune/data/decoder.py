"""Decoding in a child process: a damaged file may take the child along, never the stage."""

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
"""A request that takes longer is given up; hours of 4K video open in less."""
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
"""What a damaged file can do to a decoder; other signals come from outside."""
_NO_MEMORY = re.compile(r"bad_alloc|bad allocation|MemoryError|[Cc]annot allocate memory")
_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Opened:
    """A video that is ready to be decoded: when each frame is shown (seconds), average ``fps``, (height, width); ``sample_aspect``:
    see `video.VideoInfo`."""

    times: list[float]
    fps: float
    size: list[int]
    sample_aspect: str


class Decoder:
    """One child process that decodes, started when first needed and again after a crash. For one thread at a time.

    Every call raises VideoError, with a reason for people, for a file that cannot be used; OSError for one that cannot
    be reached. The child ends with this process: its requests end then.
    """

    def __init__(self, patience: float = PATIENCE_SECONDS) -> None:
        self._patience = patience
        self._child: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self.reader = ""
        """Which one gave the latest frames: "pyav" or "decord"."""

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def probe(self, path: Path) -> VideoInfo:
        """Count of frames, rate, size; checked against what the container declares."""
        return VideoInfo(**self._ask({"do": "probe", "path": str(path)}))

    def open(self, path: Path, decode_all: bool = False) -> Opened:
        """Make ``path`` the video that `frames` decodes. ``decode_all``: find its times by decoding all of it."""
        return Opened(**self._ask({"do": "open", "path": str(path), "decode_all": decode_all}))

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Frames of the opened video: uint8 (N, H, W, 3), RGB."""
        return np.stack(list(self.each(indices)))

    def each(self, indices: Sequence[int], times: Sequence[float] | None = None) -> Iterator[np.ndarray]:
        """Frames of the opened video one after the other, each uint8 (H, W, 3), RGB; the next is decoded meanwhile.

        ``times``: when they have to be shown. Without them, they are to be shown when `open` said, and TimesError is
        raised where that turns out wrong: open it again with ``decode_all``.
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
                self.close()  # it is in the middle of an answer that nobody waits for

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
        """The reply to a request, or the next one to the last request. Raises what it says, or what became of the child."""
        child = self._child = self._child or self._start()
        requests, replies = cast(BinaryIO, child.stdin), cast(BufferedReader, child.stdout)
        with self._watched(child) as expired:
            try:
                if request is not None:
                    requests.write(json.dumps(request).encode() + b"\n")
                    requests.flush()
                reply = json.loads(replies.readline() or "null")
            except (BrokenPipeError, ValueError):  # it died before, or in the middle of a line
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
        """The frame that follows its reply."""
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
        """Kill ``child`` when patience ends; the event says that it was."""
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
        if code == -signal.SIGKILL:  # no file does that: the kernel does, when memory runs out
            return OSError(errno.ENOMEM, "the decoder was killed, most likely because memory ran out")
        if code > 0 and subprocess.run(_COMMAND, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
            return _not_started(f"exit code {code}")  # without any file
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if _NO_MEMORY.search(last_words):  # C++ libraries abort
            return OSError(errno.ENOMEM, f"the decoder ended for lack of memory ({name})")
        if code < 0 and -code not in _CRASHES:
            return UserError(f"the decoder's process was ended by {name}, which no file does; run again")
        return VideoError(f"damaged: the decoder crashed on it ({name})")

    def _last_words(self) -> str:
        """The end of what the child wrote to its standard error."""
        if self._errors is None:
            return ""
        size = self._errors.seek(0, 2)
        self._errors.seek(max(0, size - _TAIL_BYTES))
        return self._errors.read().decode(errors="replace")

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            # Of the decoders' own lines only the end counts, and only after a crash.
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115
            return subprocess.Popen(
                _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=1 << 20
            )
        except OSError as error:
            if told := machine_error_message(error, tempfile.gettempdir()):
                raise UserError(told) from None
            raise _not_started(str(error)) from None


def _not_started(why: str) -> UserError:
    """No fault of any video: every one of them would be rejected for it."""
    return UserError(f"the decoder's process does not run ({why}); see what `{shlex.join(_COMMAND)} < /dev/null` says")
