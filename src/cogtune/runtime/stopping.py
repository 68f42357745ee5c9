"""SIGTERM or SIGUSR1 ends a job by an exception: finished work is flushed, locks are released, and the job may requeue
itself."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

STOPPED = 143
"""Exit code of a process that was stopped: 128 + SIGTERM."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Besides Ctrl-C. Schedulers can send SIGUSR1 before a time limit."""
RESUME = "Run the same command again to resume"
"""The end of a message about a stop on request."""


class Stopped(SystemExit):
    """The job was stopped by a signal, or by `args.max_hours`, and the same command resumes it.

    ``progress``: whether this start did work that the next one does not repeat. ``log``: a file that records why the
    job stopped and whether it was requeued, besides the log of the job. ``explained``: whether a message has said where it
    stopped and how it goes on. ``by_config``: `args.max_hours` stopped it, so it does not requeue itself.
    """

    def __init__(
        self, progress: bool = False, log: Path | None = None, explained: bool = False, by_config: bool = False
    ) -> None:
        super().__init__(STOPPED)
        self.progress, self.log, self.explained, self.by_config = progress, log, explained, by_config


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after a message said where the work stopped and how it goes on."""


@contextmanager
def stop_on_sigterm() -> Generator[None, None, None]:
    """Inside the block, SIGTERM and SIGUSR1 raise Stopped in the main thread; later ones are ignored. Outside the main
    thread it has no effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        ignore_sigterm()
        raise Stopped

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_sigterm() -> None:
    """While a stopped job cleans up. Outside the main thread it has no effect."""
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
