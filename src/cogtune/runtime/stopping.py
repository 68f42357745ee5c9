"""SIGTERM ends a job by an exception: finished work is flushed, locks are released, and the job may requeue itself."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

STOPPED = 143
"""Exit code of a process that SIGTERM stopped: 128 + SIGTERM."""
RESUME = "Run the same command again to resume"
"""The end of a message about a stop on request."""


class Stopped(SystemExit):
    """The job was stopped by SIGTERM, and the same command resumes it.

    ``progress``: whether this start did work that the next one does not repeat. ``log``: a file that records why the
    job stopped and whether it was requeued, besides the log of the job. ``explained``: whether a message has said where it
    stopped and how it goes on.
    """

    def __init__(self, progress: bool = False, log: Path | None = None, explained: bool = False) -> None:
        super().__init__(STOPPED)
        self.progress, self.log, self.explained = progress, log, explained


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after a message said where the work stopped and how it goes on."""


@contextmanager
def stop_on_sigterm() -> Generator[None, None, None]:
    """Inside the block, SIGTERM raises Stopped in the main thread; later ones are ignored. Outside the main thread it
    has no effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        ignore_sigterm()
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def ignore_sigterm() -> None:
    """While a stopped job cleans up. Outside the main thread it has no effect."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
