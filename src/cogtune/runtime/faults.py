"""Whose fault an error is: the file's own, which rejects it, or the machine's, which ends the stage.

A full disk or a failing mount says nothing of a clip. If it rejected one, the clip would be left out of the run without
a word, and never be looked at again.
"""

import errno
import os

_OF_THE_FILE = frozenset({
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EILSEQ,
    errno.EINVAL, errno.ENXIO, errno.ENODEV, errno.EFBIG, errno.EOVERFLOW, errno.ESPIPE, errno.ENODATA, errno.EPIPE,
})  # fmt: skip
"""Everything else that a system knows as an error number is the machine's: ENOSPC, EDQUOT, EIO, EROFS, EMFILE, ENFILE,
ENOMEM, EAGAIN, ESTALE, ETIMEDOUT, ENOTCONN (a mount that is gone) … A new number ends a stage rather than lose a clip."""


def is_environment_error(error: BaseException) -> bool:
    """Whether ``error`` is a fault of the disk, the memory or the system, and not of the file that was in hand."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, OSError) and error.errno in errno.errorcode and error.errno not in _OF_THE_FILE


def told_of_environment(error: BaseException, path: str | os.PathLike[str]) -> str | None:
    """One sentence for an error of the environment at ``path``, with what to do; None if it is the file's own fault."""
    if not is_environment_error(error):
        return None
    why = error.strerror if isinstance(error, OSError) and error.strerror else "out of memory"
    number = getattr(error, "errno", None)
    advice = {
        errno.ENOSPC: "free some space", errno.EDQUOT: "free some of your quota", errno.EROFS: "make it writable",
        errno.EMFILE: "raise `ulimit -n`", errno.ENFILE: "close other programs", errno.ENOMEM: "free some memory",
        None: "free some memory",
    }.get(number, "see that the disk is there and well")  # fmt: skip
    return (
        f"{os.fspath(path)}: {why}; this is a fault of the machine and not of the file, so nothing was rejected: "
        f"{advice}, then run the same command again"
    )
