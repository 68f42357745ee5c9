"""Work in a process of its own that has everything imported: a second instead of ten, and it may be broken or killed.

The processes are forks of a server that imports and does nothing else (`multiprocessing`'s "forkserver"). A fork of the
test process itself would inherit its threads' locks: after a parallel loop or a compilation such a fork hangs or crashes.
"""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

_MOST_SECONDS = 120.0


def forked(work: Callable[[], int], output: Path, seconds: float = _MOST_SECONDS) -> tuple[int, str]:
    """(exit code, what was printed) of ``work`` in a process of its own; 99 for an error that nobody caught.

    ``work`` is pickled: a function of a module, or a `functools.partial` of one. It runs with one thread.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    process = context.Process(target=_run, args=(work, output, os.getcwd()))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        return -1, f"no end after {seconds:.0f} s\n{output.read_text() if output.exists() else ''}"
    return process.exitcode, output.read_text()


def _run(work: Callable[[], int], output: Path, folder: str) -> None:
    code = 99
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(stream), "w", buffering=1) for stream in (1, 2))
        os.chdir(folder)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
