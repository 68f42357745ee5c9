"""The disk of the store: kind of file system, free space, speed, and what locks need."""

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cogtune.doctor.check import Check

_TOPIC = "store"
_MIB = 2**20
_BLOCK = 4 * _MIB
_BYTES = 128 * _MIB
_LITTLE_SPACE = 20e9
"""Bytes: the weights of CogVideoX-2B and one checkpoint of its training."""
_SLOW = 50e6
"""Bytes per second: below this, a checkpoint of 2B (about 20 GB) takes longer than 6 minutes."""
_FEW_FILES = 10_000


@dataclass(frozen=True)
class Mount:
    """One line of /proc/self/mountinfo."""

    point: Path
    kind: str
    options: frozenset[str]


def mounts(text: str) -> list[Mount]:
    """The mounts of /proc/self/mountinfo; spaces in names are written as \\040 there."""
    known: list[Mount] = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        if separator:
            fields, (kind, _, options) = before.split(), after.split()[:3]
            point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
            known.append(Mount(Path(point), kind, frozenset([*fields[5].split(","), *options.split(",")])))
    return known


def mount_of(folder: Path, known: list[Mount]) -> Mount | None:
    """The mount that holds ``folder``: the last of the longest."""
    real = Path(os.path.realpath(folder))
    above = [mount for mount in known if real.is_relative_to(mount.point)]
    return max(reversed(above), key=lambda mount: len(mount.point.parts), default=None)


def disk_checks(store: Path) -> Iterator[Check]:
    """File system, free space, write permission, hard links and speed of ``store``. It writes and removes one file of
    128 MiB there."""
    folder = next(place for place in (store, *store.absolute().parents) if place.exists())
    if not folder.is_dir():
        yield Check(_TOPIC, "folder", "FAIL", f"{folder} is not a folder", "set store_dir in config/config.yaml")
        return
    with suppress(OSError):
        if mount := mount_of(folder, mounts(Path("/proc/self/mountinfo").read_text(errors="replace"))):
            yield file_system_check(folder, mount)
    yield space_check(folder, shutil.disk_usage(folder).free, os.statvfs(folder).f_favail)
    if not os.access(folder, os.W_OK | os.X_OK):
        text = f"{folder}: no write permission; only results that are complete in it can be used"
        fix = "ask its owner for write access (store_group_writable in config/config.yaml), or use your own store_dir"
        yield Check(_TOPIC, "permission", "WARN", text, fix)
        return
    yield link_check(folder)
    yield speed_check(folder)


def file_system_check(folder: Path, mount: Mount) -> Check:
    """The kind of the file system, and options that lose data."""
    text = f"{folder} is on {mount.kind} (mounted at {mount.point})"
    if mount.kind.startswith("nfs") and "soft" in mount.options:
        fix = "mount it with the option `hard`"
        return Check(_TOPIC, "file system", "WARN", f"{text} with `soft`: a slow server makes jobs fail", fix)
    if mount.kind in ("tmpfs", "ramfs"):
        fix = "put store_dir on a disk"
        return Check(_TOPIC, "file system", "WARN", f"{text}, which is memory: its content ends with a reboot", fix)
    return Check(_TOPIC, "file system", "OK", text)


def space_check(folder: Path, free: int, files: int) -> Check:
    """Free space in bytes and free files (inodes; 0 on file systems without a limit)."""
    text = f"{free / 1e9:.1f} GB free for {folder}"
    fix = "free some space, or set store_dir to another disk; `cogtune plan` estimates what a run needs"
    if free < _LITTLE_SPACE:
        return Check(_TOPIC, "space", "WARN", f"{text}: the training of a full model needs more", fix)
    if 0 < files < _FEW_FILES:
        return Check(_TOPIC, "space", "WARN", f"{text}, but only {files} more files (inodes)", fix)
    return Check(_TOPIC, "space", "OK", text)


def link_check(folder: Path) -> Check:
    """Whether hard links work. Locks use them, and fall back to exclusive creation."""
    one = folder / f".{uuid.uuid4().hex}.tmp"
    other = one.with_suffix(".link")
    try:
        one.touch()
        os.link(one, other)
        return Check(_TOPIC, "locks", "OK", "hard links work, which locks use")
    except OSError as error:
        text = f"no hard links here ({error.strerror}): a lock may be incomplete after a crash, which costs 2 s"
        return Check(_TOPIC, "locks", "WARN", text, "nothing to do; a POSIX file system avoids it")
    finally:
        for path in (one, other):
            path.unlink(missing_ok=True)


def speed_check(folder: Path) -> Check:
    """Write and read 128 MiB, past the page cache where the system allows that."""
    path, block = folder / f".{uuid.uuid4().hex}.tmp", os.urandom(_BLOCK)
    try:
        started = time.perf_counter()
        with path.open("wb") as stream:
            for _ in range(_BYTES // _BLOCK):
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
            written = time.perf_counter() - started
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        started = time.perf_counter()
        with path.open("rb", buffering=0) as stream:
            while stream.read(_BLOCK):
                pass
        read = time.perf_counter() - started
    except OSError as error:
        fix = "check the disk and its quota (`df -h`, `quota -s`), and the system log"
        return Check(_TOPIC, "speed", "FAIL", f"{folder}: cannot write {_BYTES // _MIB} MiB: {error.strerror}", fix)
    finally:
        path.unlink(missing_ok=True)
    text = f"writes {_BYTES / written / 1e6:.0f} MB/s, reads {_BYTES / read / 1e6:.0f} MB/s ({_BYTES // _MIB} MiB)"
    if _BYTES / max(written, read) < _SLOW:
        fix = "use a faster disk for store_dir, or run again when the disk is idle"
        return Check(_TOPIC, "speed", "WARN", f"{text}: checkpoints will take minutes", fix)
    return Check(_TOPIC, "speed", "OK", text)
