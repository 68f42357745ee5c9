"""Follows ranks that run on several machines, through their `Channel`, until all have ended."""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from cogtune.train.channel import Channel
from cogtune.train.ends import RankEnd, patience
from cogtune.train.launch import GRACE_SECONDS, POLL_SECONDS

WORKER = [sys.executable, "-m", "cogtune.train.worker"]
"""Command of a rank that gets its plan through a channel."""
_ABORT_SECONDS = 15.0
"""Time for ranks to notice an abort, which they look for every second, and to end."""


class Follower:
    """Follows ranks until all have ended, or one failed and the others had time to say why."""

    def __init__(
        self,
        channel: Channel,
        ranks: int,
        process: "subprocess.Popen[bytes]",
        on_line: Callable[[str], None],
        on_poll: Callable[[], None],
        seen: Callable[[], Mapping[int, RankEnd]],
    ) -> None:
        """``process``: srun, or the first rank. ``seen``: ends that this machine knows of."""
        self._channel, self._ranks, self._process = channel, ranks, process
        self._on_line, self._on_poll, self._seen = on_line, on_poll, seen

    def until_ended(self) -> list[RankEnd]:
        """How each rank ended, known before any was aborted."""
        first_end: float | None = None
        while True:
            ended = self._process.poll() is not None
            for line in self._channel.reports():
                self._on_line(line)
            self._on_poll()
            ends = self._ends()
            if all(end.code is not None for end in ends):
                return ends
            first_end = first_end or (time.monotonic() if ended or any(end.code is not None for end in ends) else None)
            limit = GRACE_SECONDS if ended else patience([end.code for end in ends], GRACE_SECONDS)
            if first_end is not None and time.monotonic() - first_end > limit:
                return ends
            time.sleep(POLL_SECONDS)

    def end_all(self, cancel: Callable[[], None]) -> None:
        """Have every rank end; ``cancel`` if one does not."""
        if self._wait(GRACE_SECONDS if all(end.code is not None for end in self._ends()) else 0):
            return
        self._channel.abort("another rank failed, or the job was stopped")
        if not self._wait(_ABORT_SECONDS):
            cancel()
            if not self._wait(GRACE_SECONDS):
                self._process.kill()
        self._process.wait()
        self._on_poll()

    def _wait(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._on_poll()
        return True

    def _ends(self) -> list[RankEnd]:
        """How ranks ended, from their own reports; for killed ranks, which report nothing, from this machine or
        srun."""
        seen = self._seen()
        return [
            end if end.code is not None or end.rank not in seen else replace(seen[end.rank], error=end.error)
            for end in self._channel.ends(self._ranks)
        ]


def threads_of_rank(threads: int) -> dict[str, str]:
    """Environment variables of a rank."""
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
