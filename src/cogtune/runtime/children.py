"""Child processes that end with their parent."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Called in a child: have the kernel SIGKILL it when its parent ends for any reason.

    ``parent``: the parent's pid, passed by the parent (environment variable, argument). If the parent has already ended,
    this process kills itself. Linux only; no effect elsewhere.

    The signal is tied to the *thread* that started the child (prctl(2), PR_SET_PDEATHSIG): start children from a thread
    that lives as long as the children.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
