"""Locks of the kernel, which end with the process: one Snakemake at a time in a working directory, one process at a time in a
folder outside of the store.

Snakemake's own lock is a file, which remains after a SIGKILL or a power cut until `snakemake --unlock`. `hold_directory` is held
by the kernel. It prevents two runs from starting the same jobs; data is safe without it,
because every stage holds the lock of its folder in the store.
"""

import errno
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import IO

from cogtune.errors import UserError

_HELD: dict[Path, IO[str]] = {}
"""Open until this process ends, because closing the file releases the lock. Not inherited by child processes."""


def hold_directory(path: Path) -> None:
    """Lock ``path`` for the rest of this process, once. Raises UserError if another process holds it, or if it is not a regular
    file: a link's target would be overwritten.

    No lock is taken on a file system without locks, or in a read-only folder.
    """
    if path.absolute() in _HELD:
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _not_a_file(path) from None
        return
    if not S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_a_file(path)
    stream = os.fdopen(descriptor, "r+")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        owner = stream.read(20).strip() or "?"
        stream.close()
        raise UserError(
            f"another snakemake (process {owner}) is running in {path.resolve().parent}; wait for it, or stop it (finished "
            f"work is kept)"
        ) from None
    except OSError:
        stream.close()
        return
    with suppress(OSError):  # a full disk: the number is for the message only
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
    _HELD[path.absolute()] = stream


@contextmanager
def alone_in(folder: Path, *, wait: bool) -> Generator[None, None, None]:
    """One process at a time, of those on this machine. The lock is that of the folder itself, so it leaves no file. Raises
    BlockingIOError if another process is in it, unless ``wait``. No lock is taken on a file system without locks."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)


def _not_a_file(path: Path) -> UserError:
    return UserError(f"{path.absolute()}: expected a regular file, found a link or a folder; remove it")
