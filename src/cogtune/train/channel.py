"""What the stage and ranks on other machines tell each other: the plan, reports, errors. A TCPStore carries it.

The process that runs the stage hosts the store, on a port that the system chose while binding it, so there is no race
for the port. The ranks also meet through it (`torch.distributed`). A rank whose store is gone ends itself: no rank goes
on writing after the stage's process, or its machine, has died.
"""

import io
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, TextIO

from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from cogtune.train.ends import RankEnd, RankError
from cogtune.train.network import check_resolves, unreachable

ADDRESS = "COGTUNE_STORE"
"""Environment variable of a rank: host:port of the store."""
PREFIX = "COGTUNE_STORE_PREFIX"
"""The part of the store that belongs to this start (torchrun keeps one store over its restarts)."""

_CONNECT_SECONDS = 120.0
ANSWER_SECONDS = 20.0
"""Silence after which a rank takes the stage for dead. Well below the 60 s after which another job takes the lock
over."""
_WATCH_SECONDS = 1.0
_NOTHING = "nothing to do"
_log = logging.getLogger(__name__)


class Channel:
    """One side of it. ``address``: host:port, for the ranks."""

    def __init__(self, store: Store, address: str, prefix: str = "") -> None:
        self.address, self.prefix = address, prefix
        self._store = PrefixStore(f"cogtune{prefix}", store)
        self._read = 0

    @classmethod
    def host(cls, name: str) -> "Channel":
        """A new store in this process; ``name``: of this machine, for the ranks."""
        store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=_seconds(_CONNECT_SECONDS))
        return cls(store, f"{name}:{store.port}")

    @classmethod
    def join(cls, address: str, rank: int, prefix: str = "") -> "Channel":
        """The store at ``address``. Raises UserError if it cannot be reached."""
        host, _, port = address.rpartition(":")
        check_resolves(host, rank)
        try:
            store = TCPStore(host, int(port), is_master=False, timeout=_seconds(_CONNECT_SECONDS))
        except RuntimeError as error:
            raise unreachable(address, rank, f"{error}".split("\n")[0][:200]) from error
        return cls(store, address, prefix)

    def of_ranks(self) -> Store:
        """The part in which `torch.distributed` connects the ranks."""
        return PrefixStore("ranks", self._store)

    # The stage's side

    def send_plan(self, plan: dict[str, Any]) -> None:
        """Let the ranks start."""
        self._store.set("plan", json.dumps(plan))

    def dismiss(self) -> None:
        """Let ranks that wait for a plan end, with exit code 0."""
        self._store.set("plan", _NOTHING)

    def abort(self, why: str) -> None:
        """Have all ranks end themselves."""
        self._store.set("abort", why)

    def reports(self) -> Iterator[str]:
        """The lines that the first rank reported since the last call."""
        while self._store.check([key := f"report-{self._read}"]):
            yield self._store.get(key).decode()
            self._store.delete_key(key)
            self._read += 1

    def ends(self, ranks: int) -> list[RankEnd]:
        """How the ranks say that they ended; a killed one says nothing."""
        ends = []
        for rank in range(ranks):
            value = json.loads(self._store.get(f"end-{rank}")) if self._store.check([f"end-{rank}"]) else {}
            error = value.get("error")
            ends.append(
                RankEnd(rank, value.get("code"), RankError(**error) if error else None, host=value.get("host", ""))
            )
        return ends

    def step(self) -> str | None:
        """The Slurm step of the ranks, once one of them runs."""
        return self._store.get("step").decode() if self._store.check(["step"]) else None

    # A rank's side

    def say_step(self, step: str) -> None:
        """Tell the stage which Slurm step this rank belongs to."""
        self._store.set("step", step)

    def plan(self) -> dict[str, Any] | None:
        """What to do, as soon as the stage has decided (it may wait for a lock); None for nothing."""
        while not self._store.check(["plan"]):
            time.sleep(_WATCH_SECONDS / 5)
        text = self._store.get("plan").decode()
        return None if text == _NOTHING else json.loads(text)

    def reporter(self) -> TextIO:
        """A text stream whose lines are reports."""
        return _Reports(self._store)

    def say_end(self, rank: int, code: int, error: RankError | None, host: str) -> None:
        """Report the end of a rank to the stage. Errors are ordered as the store gets them: clocks of machines differ."""
        error = error and replace(error, time=float(self._store.add("ended", 1)))
        self._store.set(f"end-{rank}", json.dumps({"code": code, "error": error and error.to_dict(), "host": host}))

    def why_aborted(self) -> str | None:
        """The message of `abort`. Raises RuntimeError if the store does not answer."""
        return self._store.get("abort").decode() if self._store.check(["abort"]) else None


class _Reports(io.StringIO):
    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store, self._number, self._pending = store, 0, ""

    def write(self, text: str) -> int:
        *lines, self._pending = (self._pending + text).split("\n")
        for line in lines:
            self._store.set(f"report-{self._number}", line)
            self._number += 1
        return len(text)


def watch(channel: Channel, rank: int, silence: float = ANSWER_SECONDS) -> None:
    """Start the threads that end this rank when the stage aborts, is gone, or does not answer for ``silence`` seconds.

    Only calls that return at once may use ``channel`` too. The second thread is needed because TCPStore has no time
    limit for an answer: after a power cut of the first machine a call waits forever. It counts its own turns, so that
    the time for which Slurm suspends the whole job is no silence.
    """
    silent = [0.0]

    def leave(why: str) -> None:
        _log.error("rank %d stops: %s", rank, why)
        os._exit(1)

    def ask() -> None:
        while True:
            try:
                why = channel.why_aborted()
            except RuntimeError:
                why = "the process that runs the stage has ended"
            if why is not None:
                leave(why)
            silent[0] = 0.0
            time.sleep(_WATCH_SECONDS)

    def guard() -> None:
        while silent[0] < silence:
            time.sleep(_WATCH_SECONDS)
            silent[0] += _WATCH_SECONDS
        leave(f"the process that runs the stage did not answer for {silence:.0f} s")

    for target in (ask, guard):
        threading.Thread(target=target, name=f"stage-{target.__name__}", daemon=True).start()


def from_environment(rank: int) -> Channel | None:
    """A connection of a rank to the stage; None for a rank of this machine's own launcher."""
    address = os.environ.get(ADDRESS)
    return Channel.join(address, rank, os.environ.get(PREFIX, "")) if address else None


def _seconds(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)
