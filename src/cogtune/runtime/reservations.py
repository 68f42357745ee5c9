"""Rows that processes are making: of several processes that add rows to one folder, no two make the same row.

A process reserves rows before it makes them. A reservation is a file ``<uuid>.json`` beside the lock of the folder, with
its owner and the names of the rows. It is written under the lock, which is held only for that moment, and ends when its
owner removes it or is dead, as for a lock (`locks.py`). Who needs a row that another process reserved waits for the end
of that reservation, and then looks for the row again. A process that waits holds no reservation, so no two wait for each
other.
"""

import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from cogtune.runtime.atomic import write_json
from cogtune.runtime.locks import HeldError, hold_lock, holder
from cogtune.runtime.owners import (
    Timing,
    in_this_slurm_job,
    is_dead,
    name_of,
    owner_of,
    slurm_job,
    this_process,
)

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_DEFAULT = Timing()


@contextmanager
def hold_alone(lock: Path) -> Generator[None, None, None]:
    """Hold the lock of a folder while no process makes rows there: for what removes rows."""
    with hold_lock(lock):
        Reservations(lock).wait()
        yield


def user_of(lock: Path) -> str:
    """A live process that holds the lock of a folder or makes rows there; "" if there is none. It only looks."""
    return holder(lock) or next(iter(Reservations(lock).names()), "")


@dataclass(frozen=True)
class _Reservation:
    """``stamp`` changes with each heartbeat; ``since``: when this process first saw that stamp, on its own clock;
    ``beats``: heartbeats that it saw."""

    owner: dict[str, Any]
    rows: frozenset[str]
    stamp: int
    since: float
    beats: int = 0

    @property
    def name(self) -> str:
        return name_of(self.owner)


class Reservations:
    """The reservations of rows in one folder, as this process sees them. ``lock``: the lock of the folder."""

    def __init__(self, lock: Path, timing: Timing = _DEFAULT, patience: float = math.inf) -> None:
        """``patience``: seconds that this process waits for an owner that sends heartbeats, as for a lock."""
        self._lock, self._timing, self._patience = lock, timing, patience
        self._folder = lock.with_suffix(".reserved")
        self._known: dict[Path, _Reservation] = {}

    @contextmanager
    def reserve(self, choose: Callable[[frozenset[str]], Sequence[str]]) -> Generator[Sequence[str], None, None]:
        """Reserve the rows that ``choose`` returns, given those that other live processes have reserved.

        ``choose`` runs under the lock of the folder. If another host takes this process for dead, it exits immediately
        with exit code 1, as for a lock. Raises HeldError if the lock is not free within ``patience``.
        """
        with hold_lock(self._lock, self._timing, self._patience):
            rows = choose(frozenset[str]().union(*(one.rows for one in self._live(remove_dead=True).values())))
            path = self._write(rows) if rows else None
        if path is None:
            yield rows
            return
        ended = threading.Event()
        beating = threading.Thread(target=_beat, args=(path, ended, self._timing), name="row-heartbeat", daemon=True)
        beating.start()
        try:
            yield rows
        finally:
            ended.set()
            beating.join()
            path.unlink(missing_ok=True)

    def names(self) -> list[str]:
        """The live processes that have reserved rows."""
        return sorted({one.name for one in self._live().values()})

    def wait(self, rows: Collection[str] | None = None) -> float:
        """Wait until no other live process has reserved one of ``rows`` (None: any row); returns the seconds.

        Call it without a reservation. Under the lock of the folder, no process can reserve rows meanwhile. Raises
        HeldError after ``patience`` seconds if one of the owners sent a heartbeat meanwhile.
        """
        started = say_at = time.monotonic()
        waited = False
        while blocking := [one for one in self._live().values() if rows is None or not one.rows.isdisjoint(rows)]:
            if (now := time.monotonic()) >= say_at:
                say_at = now + self._timing.say
                count = sum(len(one.rows if rows is None else one.rows.intersection(rows)) for one in blocking)
                names = ", ".join(sorted({one.name for one in blocking}))
                _log.info("waiting for %s to make %d rows of %s (%.0f s)", names, count, self._lock.stem, now - started)
            alive = next((one for one in blocking if one.beats and not in_this_slurm_job(one.owner)), None)
            if alive is not None and now - started > self._patience:
                held = f"{alive.name} makes rows of {self._lock.stem}"
                raise HeldError(held, alive.owner.get("slurm_job"))
            waited = True
            time.sleep(_POLL_SECONDS)
        return time.monotonic() - started if waited else 0.0

    def _live(self, remove_dead: bool = False) -> dict[Path, _Reservation]:
        """The reservations of live owners. ``remove_dead`` only under the lock."""
        known = self._known
        self._known = {path: one for path in self._folder.glob("*.json") if (one := _look(path, known.get(path)))}
        now = time.monotonic()
        live = {path: one for path, one in self._known.items() if not is_dead(one.owner, now - one.since, self._timing)}
        for path in self._known.keys() - live.keys() if remove_dead else ():
            path.unlink(missing_ok=True)
        return live

    def _write(self, rows: Iterable[str]) -> Path:
        path = self._folder / f"{uuid.uuid4().hex}.json"
        write_json(path, this_process() | slurm_job() | {"rows": list(rows)}, indent=None)
        return path


def _look(path: Path, known: _Reservation | None) -> _Reservation | None:
    """The reservation in a file. None if it has ended, or is not a reservation: it then reserves nothing."""
    try:
        # Open the file instead of stat alone, so that NFS asks the server.
        with path.open(encoding="utf-8") as stream:
            stamp = os.fstat(stream.fileno()).st_mtime_ns
            if known is not None and known.stamp == stamp:
                return known
            text = "" if known is not None else stream.read()
    except (OSError, ValueError):
        return None
    since = time.monotonic()
    if known is not None:  # the content of a reservation never changes
        return _Reservation(known.owner, known.rows, stamp, since, known.beats + 1)
    owner = owner_of(text)
    rows: Any = owner.pop("rows", None)
    if "pid" not in owner or not isinstance(rows, list):
        return None
    named = frozenset(str(row) for row in cast(list[Any], rows))
    return _Reservation(owner, named, stamp, since)


def _beat(path: Path, ended: threading.Event, timing: Timing) -> None:
    while not ended.wait(timing.heartbeat):
        try:
            os.utime(path)
        except FileNotFoundError:
            if not ended.is_set():
                silence = f"because this process sent no heartbeat for {timing.stale:.0f} s; exiting"
                _log.error("another process took over the rows reserved in %s %s", path.parent, silence)
                os._exit(1)
        except OSError:
            pass  # file system temporarily unavailable; the next heartbeat retries
