"""Child processes that do not outlive the process that started them."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Called in a child: have the kernel SIGKILL it when its parent ends, however the parent ends.

    ``parent`` is the pid that the parent told the child (an environment variable, an argument). If that process is gone
    already, the request came too late and this process ends here. Linux only; elsewhere nothing happens.

    The signal is tied to the *thread* that started the child (prctl(2), PR_SET_PDEATHSIG): start children from a thread
    that lives as long as they should.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
