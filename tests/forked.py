"""Work in a process of its own that has everything imported: a second instead of ten, and it may be broken or killed."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

_MOST_SECONDS = 120


def forked(work: Callable[[], int], output: Path) -> tuple[int, str]:
    """(exit code, what was printed) of ``work`` in a process of its own; 99 for an error that nobody caught."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(descriptor, stream)
            sys.stdout, sys.stderr = (os.fdopen(os.dup(stream), "w", buffering=1) for stream in (1, 2))
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    ends = time.monotonic() + _MOST_SECONDS
    while not (done := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > ends:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return -1, f"no end after {_MOST_SECONDS} s\n{output.read_text()}"
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(done[1]), output.read_text()
