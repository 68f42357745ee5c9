"""One writer per key: a lock with a live owner, which a waiter takes over when the owner is dead.

A lock is a folder of numbered claims, ``<n>.json``. The highest number counts: its owner holds the lock until it writes
there that it released it, or is found dead. To take the lock is to create number n + 1, whole, by a hard link to a file that
is written already (O_EXCL where there are no hard links), so of several waiters that found the same owner dead exactly
one gets it, and a full disk leaves no empty claim; and as the highest claim is never removed, a waiter that slept over
the whole life of a later owner finds that owner's claim above its own, and steps back. No step relies on flock, which
clusters' shared file systems often lack.
"""

import errno
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any, cast

from cogtune.errors import UserError
from cogtune.runtime.atomic import write_json

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_LONGEST_CLAIM = 1 << 16
"""Bytes of a claim that are read; one of ours has 200."""


@dataclass(frozen=True)
class Timing:
    """Seconds: between two signs of life of an owner; without a sign, until an owner on another host counts as dead, and
    until a claim that names nobody does; between two lines of a waiter."""

    heartbeat: float = 10.0
    stale: float = 60.0
    unnamed: float = 2.0
    say: float = 10.0


_DEFAULT = Timing()


@dataclass(frozen=True)
class _Claim:
    """One file of the folder. ``owner`` is empty for a claim that is damaged, or half written where there are no hard
    links; ``stamp`` moves with each heartbeat."""

    number: int
    path: Path
    owner: dict[str, Any]
    stamp: int


@contextmanager
def hold_lock(path: str | os.PathLike[str], timing: Timing = _DEFAULT) -> Generator[None, None, None]:
    """Hold the lock ``path`` inside the block; while a live process holds it, wait and say for whom (stderr).

    An owner is dead when its process is gone (same host: pid and start time are compared) or, on another host, when
    its heartbeat did not move for ``timing.stale`` seconds of this process's own clock, so clocks need not agree.
    Not re-entrant. Should another host take the lock over because this process did not run for that long, this process
    ends at once with exit code 1: two writers never overlap. Raises UserError where a link or a file stands at ``path``.
    """
    folder = Path(path)
    claim = _acquire(folder, timing)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(claim, ended, timing), name="lock-heartbeat", daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        write_json(claim.path, claim.owner | {"released": True})


def _acquire(folder: Path, timing: Timing) -> _Claim:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder}: a lock is a folder, and this is a link or a file; remove it")
    folder.mkdir(parents=True, exist_ok=True)
    started = seen_at = time.monotonic()
    seen: _Claim | None = None
    say_at = started
    while True:
        newest, now = _newest(folder), time.monotonic()
        if newest != seen:
            seen, seen_at = newest, now
        if newest is None or newest.owner.get("released") or _is_dead(newest.owner, now - seen_at, timing):
            claim = _take(folder, newest)
            if claim is not None:
                return claim
            continue
        if now >= say_at:
            say_at = now + timing.say
            _log.info("waiting for %s, which holds %s (%.0f s)", _name(newest), folder.stem, now - started)
        time.sleep(_POLL_SECONDS)


def _take(folder: Path, before: _Claim | None) -> _Claim | None:
    """Create the claim after ``before``; None if another waiter was faster."""
    number = before.number + 1 if before else 1
    path, owner = folder / f"{number}.json", _this_process()
    try:
        _create(path, json.dumps(owner))
    except FileExistsError:
        return None
    newest = _newest(folder)
    if newest is not None and newest.number > number:
        path.unlink()
        return None
    if before is not None and not before.owner.get("released"):
        _log.info("%s is dead; took %s over", _name(before), folder.stem)
    for older in _numbers(folder):
        # The one before stays: whoever lists the folder just now meets that one or this one.
        if older < number - 1:
            with suppress(FileNotFoundError, IsADirectoryError):
                (folder / f"{older}.json").unlink()
    return _Claim(number, path, owner, 0)


def _create(path: Path, text: str) -> None:
    """Create ``path`` with all of ``text`` or not at all. Raises FileExistsError if it is there."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(text)
        try:
            os.link(temporary, path)
        except OSError as error:
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
        with suppress(OSError):  # a file system that is away for a moment; the next beat tries again
            os.utime(claim.path)
            newest = _newest(claim.path.parent)
        if newest is not None and newest.number > claim.number and not ended.is_set():
            silence = f"as this process gave no sign of life for {timing.stale:.0f} s; ending"
            _log.error("%s took %s over %s", _name(newest), claim.path.parent.stem, silence)
            os._exit(1)


def _numbers(folder: Path) -> list[int]:
    """The numbers of the claims; 07 and numbers in other scripts than ASCII are none, as no process writes them."""
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
    return _Claim(max(numbers), path, _owner(text), stamp)


def _read(path: Path) -> tuple[int, str]:
    """(stamp, text) of a claim; of a folder, a link or a FIFO, which no process of ours made, the text is empty."""
    try:
        # Opening it, not stat alone: NFS then asks the server.
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


def _owner(text: str) -> dict[str, Any]:
    """What a claim says; empty if it says nothing that can be used."""
    try:
        owner: Any = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(owner, dict):
        return {}
    owner = cast(dict[str, Any], owner)
    named = isinstance(owner.get("pid"), int) and isinstance(owner.get("machine"), str) and "start" in owner
    return owner if named or owner.get("released") is True else {}


def _is_dead(owner: dict[str, Any], silence: float, timing: Timing) -> bool:
    """Whether an owner, of which nothing was seen for ``silence`` seconds, is gone."""
    if not owner:
        return silence > timing.unnamed
    if owner["machine"] == _machine():
        start = _start_time(owner["pid"])
        if start is None or owner["start"] is not None:
            return start is None or start != owner["start"]
    return silence > timing.stale  # also where an owner did not know when it started: a pid alone is used again


def _name(claim: _Claim) -> str:
    return f"process {claim.owner.get('pid', '?')} on {claim.owner.get('host', '?')}"


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "machine": _machine(), "pid": pid, "start": _start_time(pid)}


def _machine() -> str:
    """What two processes must share for a pid of one to mean the same to the other: host, boot, pid namespace."""
    boot = namespace = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {boot} {namespace}"


def _start_time(pid: int) -> str | None:
    """When a process started, in the kernel's own unit; None if it is gone, or a zombie that waits for its parent."""
    if not Path("/proc/self/stat").exists():
        return _answers(pid)
    try:
        # The name in parentheses may hold spaces and parentheses itself; state is field 3, start time field 22.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _answers(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"
