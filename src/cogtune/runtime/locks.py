"""One writer per key: a lock with a live owner; a waiter takes it over if the owner is dead.

A lock is a folder of numbered claims, ``<n>.json``. The highest number counts: its owner holds the lock until it marks
the claim as released, or is dead. A process takes the lock by creating claim n + 1 atomically, as a hard link to a
finished file (with O_EXCL if there are no hard links). So of several waiters that see the same dead owner exactly one
gets the lock, and a full disk leaves no empty claim. The highest claim is never removed, so a waiter that slept through
the whole life of a later owner sees that owner's claim above its own, and retries. Nothing relies on flock, which shared
file systems of clusters often do not support.
"""

import errno
import json
import logging
import math
import os
import re
import threading
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

from cogtune.errors import UserError
from cogtune.runtime.atomic import write_json
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
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_LONGEST_CLAIM = 1 << 16
"""Maximum bytes of a claim that are read; claims of cogtune have 200."""


_DEFAULT = Timing()


@dataclass(frozen=True)
class _Claim:
    """One file of the folder. ``owner`` is empty for a claim that is damaged, or incomplete on file systems without hard
    links; ``stamp`` changes with each heartbeat."""

    number: int
    path: Path
    owner: dict[str, Any]
    stamp: int


class HeldError(UserError):
    """A live process holds the lock, and this one may not wait. ``slurm_job``: the Slurm job of the owner, if it is one."""

    def __init__(self, message: str, slurm_job: str | None) -> None:
        super().__init__(message)
        self.slurm_job = slurm_job


@contextmanager
def hold_lock(
    path: str | os.PathLike[str], timing: Timing = _DEFAULT, patience: float = math.inf
) -> Generator[None, None, None]:
    """Hold the lock ``path`` inside the block; while another live process holds it, wait and log its name.

    An owner is dead when its process is gone (same host: pid and start time are compared) or, on another host, when
    its heartbeat did not move for ``timing.stale`` seconds of this process's own clock, so clocks need not agree.
    Not re-entrant. Should another host take the lock over because this process did not run for that long, this process
    exits immediately with exit code 1: two writers never overlap. Raises UserError if ``path`` is a link or a file, and
    HeldError after ``patience`` seconds if the owner sent a heartbeat meanwhile and is in another Slurm job, or in none.
    """
    folder = Path(path)
    claim = _acquire(folder, timing, patience)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(claim, ended, timing), name="lock-heartbeat", daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        write_json(claim.path, claim.owner | {"released": True})


def holder(path: Path, silent: float = 3600.0) -> str:
    """The live process that holds a lock; "" if there is none. It only looks. An owner on another host counts as dead after
    ``silent`` seconds without heartbeat, by the time of its claim: much later than for a waiter, as clocks may differ."""
    newest = _newest(path) if path.is_dir() else None
    if newest is None or newest.owner.get("released"):
        return ""
    silence = time.time() - newest.stamp / 1e9
    return "" if is_dead(newest.owner, silence, Timing(stale=silent, unnamed=silent)) else _name(newest)


@dataclass(frozen=True)
class Sign:
    """What a lock says of its last owner. ``name``: for messages; ``silence``: seconds since its last sign of life, by the
    clocks of two machines if it runs on another; ``released``: it ended; ``gone``: its process on this machine is gone."""

    name: str
    silence: float
    released: bool
    gone: bool


def last_sign(path: Path) -> Sign | None:
    """What the lock ``path`` says; None if there is no lock. It only looks."""
    newest = _newest(path) if path.is_dir() else None
    if newest is None:
        return None
    silence = max(0.0, time.time() - newest.stamp / 1e9)
    released = bool(newest.owner.get("released"))
    never = Timing(stale=math.inf, unnamed=math.inf)
    name = _name(newest) if "pid" in newest.owner else "a process"
    return Sign(name, silence, released, gone=not released and is_dead(newest.owner, silence, never))


def _acquire(folder: Path, timing: Timing, patience: float) -> _Claim:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder}: expected a folder (a lock), found a link or a file; remove it")
    folder.mkdir(parents=True, exist_ok=True)
    started = seen_at = time.monotonic()
    seen: _Claim | None = None
    say_at = started
    alive = False
    while True:
        newest, now = _newest(folder), time.monotonic()
        if newest != seen:
            alive = newest is not None and seen is not None and newest.number == seen.number
            seen, seen_at = newest, now
        if newest is None or newest.owner.get("released") or is_dead(newest.owner, now - seen_at, timing):
            claim = _take(folder, newest)
            if claim is not None:
                return claim
            time.sleep(_POLL_SECONDS)  # on NFS a listing may be old for a minute: do not ask the server all the time
            continue
        if alive and now - started > patience and not in_this_slurm_job(newest.owner):
            raise HeldError(f"{_name(newest)} holds the lock of {folder.stem}", newest.owner.get("slurm_job"))
        if now >= say_at:
            say_at = now + timing.say
            _log.info("waiting for %s, which holds the lock of %s (%.0f s)", _name(newest), folder.stem, now - started)
        time.sleep(_POLL_SECONDS)


def _take(folder: Path, before: _Claim | None) -> _Claim | None:
    """Create the claim after ``before``; None if another waiter was faster."""
    number = before.number + 1 if before else 1
    path, owner = folder / f"{number}.json", this_process() | slurm_job()
    try:
        _create(path, json.dumps(owner))
    except FileExistsError:
        return None
    newest = _newest(folder)
    if newest is not None and newest.number > number:
        path.unlink()
        return None
    if before is not None and not before.owner.get("released"):
        _log.info("%s is dead; took over the lock of %s", _name(before), folder.stem)
    for older in _numbers(folder):
        # Keep the previous claim: a process that lists the folder right now must see one of the two.
        if older < number - 1:
            with suppress(FileNotFoundError, IsADirectoryError):
                (folder / f"{older}.json").unlink()
    return _Claim(number, path, owner, 0)


def _create(path: Path, text: str) -> None:
    """Create ``path`` with ``text`` atomically. Raises FileExistsError if it exists."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(text)
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno == errno.EEXIST and temporary.stat().st_nlink > 1:
                return  # NFS: the server made the link, its reply was lost, and the client repeated the request
            if error.errno in (errno.EEXIST, errno.ENOENT, errno.ENOSPC, errno.EDQUOT):
                raise
            _create_in_place(path, text)  # a file system without hard links
    finally:
        temporary.unlink(missing_ok=True)


def _create_in_place(path: Path, text: str) -> None:
    with path.open("x") as stream:
        try:
            stream.write(text)
            stream.flush()
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _beat(claim: _Claim, ended: threading.Event, timing: Timing) -> None:
    while not ended.wait(timing.heartbeat):
        newest = None
        with suppress(OSError):  # file system temporarily unavailable; the next heartbeat retries
            os.utime(claim.path)
            newest = _newest(claim.path.parent)
        if newest is not None and newest.number > claim.number and not ended.is_set():
            silence = f"because this process sent no heartbeat for {timing.stale:.0f} s; exiting"
            _log.error("%s took over the lock of %s %s", _name(newest), claim.path.parent.stem, silence)
            os._exit(1)


def _numbers(folder: Path) -> list[int]:
    """The numbers of the claims, without 07 or non-ASCII digits, which cogtune does not write."""
    return [int(path.stem) for path in folder.glob("*.json") if _NUMBER.fullmatch(path.stem)]


def _newest(folder: Path) -> _Claim | None:
    numbers = _numbers(folder)
    if not numbers:
        return None
    path = folder / f"{max(numbers)}.json"
    try:
        stamp, text = _read(path)
    except FileNotFoundError:
        return _newest(folder)
    return _Claim(max(numbers), path, owner_of(text), stamp)


def _read(path: Path) -> tuple[int, str]:
    """(stamp, text) of a claim; the text of a folder, a link or a FIFO is empty."""
    try:
        # Open the file instead of stat alone, so that NFS asks the server.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            return 0, ""
        raise
    try:
        status = os.fstat(descriptor)
        text = os.read(descriptor, _LONGEST_CLAIM).decode(errors="replace") if S_ISREG(status.st_mode) else ""
    finally:
        os.close(descriptor)
    return status.st_mtime_ns, text


def _name(claim: _Claim) -> str:
    return name_of(claim.owner)
