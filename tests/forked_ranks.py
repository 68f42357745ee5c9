"""Ranks of training as forks of this process: everything is imported, so a rank starts in 0.1 s instead of 8."""

import os
import signal
import sys
import traceback
from types import SimpleNamespace
from typing import Any

from cogtune.train import launch, worker
from tests.faults import CountedFile, Faults


def fork_ranks(faults: Faults) -> None:
    """For the rest of this process, start ranks as forks whose calls ``faults`` counts as those of "rank N"."""

    def start(command: list[str], env: dict[str, str], stdout: Any, **options: Any) -> ForkedRank:
        return ForkedRank(command, env, stdout, faults)

    launch.subprocess = SimpleNamespace(Popen=start, DEVNULL=None)  # pyright: ignore[reportAttributeAccessIssue]
    launch.GRACE_SECONDS = 0.5  # the other rank waits for the one that failed


class ForkedRank:
    """What `launch` needs of a subprocess.Popen."""

    def __init__(self, command: list[str], env: dict[str, str], stdout: Any, faults: Faults) -> None:
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._run(command, env, stdout, faults)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(98)

    def _run(self, command: list[str], env: dict[str, str], stdout: Any, faults: Faults) -> None:
        os.environ.clear()
        os.environ.update(env)
        for stream in (1, 2):
            os.dup2(stdout.fileno(), stream)
        faults.entered(f"rank {env['RANK']}")
        log = os.fdopen(os.dup(1), "w", buffering=1)
        sys.stdout = sys.stderr = CountedFile(log, faults, stdout.name, kind="print")
        sys.argv = command[2:]
        worker.main()

    def poll(self) -> int | None:
        """Exit code, None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self) -> int:
        """Exit code, when it has ended."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code

    def send_signal(self, number: int) -> None:
        """As Popen's."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """As Popen's."""
        self.send_signal(signal.SIGKILL)
