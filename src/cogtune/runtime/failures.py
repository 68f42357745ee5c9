"""What a machine refuses (a full disk, no permission, no memory), as one sentence with what to do.

Such errors come from anywhere: Python's own calls, safetensors (its text ends in ``os error 28``), torch's writer and
allocators (RuntimeError), ffmpeg. None of them is a defect, and none loses anything: what was finished is on the disk,
and the same command goes on from there. Also: whether an error is the fault of the file in hand, which rejects it, or of
the machine, which ends the stage.
"""

import errno
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from cogtune.errors import UserError
from cogtune.runtime.paths import is_key

_AGAIN = "then give the same command again: what was finished is kept"
_FULL = f"no space left: free some, or use another disk (store_dir, results_dir in config/config.yaml); {_AGAIN}"
_DENIED = "no permission to write there"
_STORE = (
    "a store of somebody else can be read but not added to, and this work is not complete in it: ask for permission, or "
    "use a store of your own (store_dir in config/config.yaml)"
)
_RESULTS = "reports, receipts and logs need a results folder of your own (results_dir in config/config.yaml)"
_OF_RESULTS = frozenset({".receipts", ".runs", ".logs"})
_OF_STORE = frozenset({"slices", "locks", "records", "scan"})
_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: f"your quota is used up: free some, or use another disk; {_AGAIN}",
    errno.EFBIG: f"the file is larger than this process may write (`ulimit -f`, or the file system); raise it, {_AGAIN}",
    errno.EIO: f"the disk or the network behind it failed (input/output error); look into the system's log, {_AGAIN}",
    errno.EROFS: f"read-only file system: {_DENIED}",
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EMFILE: f"too many open files: raise the limit (`ulimit -n`), {_AGAIN}",
    errno.ENFILE: f"too many open files on this machine; close some programs, {_AGAIN}",
    errno.ESTALE: f"the network file system lost the file; mount it again, {_AGAIN}",
    errno.ENOMEM: "",
}
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
NOTE = "while writing "
"""Begins the note on an error that says which file was to be written; its own file name is a temporary one, or none."""
_CODE = re.compile(r"\(os error ([0-9]+)\)|\[Errno ([0-9]+)\]")
_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|std::bad_alloc|bad allocation", re.I
)
_TORCH_WRITER = re.compile(r"PytorchStreamWriter failed|inline_container\.cc.*unexpected pos|unexpected pos \d+ vs \d+")
_MEMORY = (
    f"less of it is needed with smaller args.encode_batch, args.text_batch, args.sampling_batch, a smaller micro batch "
    f"(deepspeed.train_micro_batch_size_per_gpu) or args.checkpoint_activations: full (`cogtune plan` predicts it); {_AGAIN}"
)

_OF_THE_FILE = frozenset({
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EILSEQ,
    errno.EINVAL, errno.ENXIO, errno.ENODEV, errno.EFBIG, errno.EOVERFLOW, errno.ESPIPE, errno.ENODATA, errno.EPIPE,
})  # fmt: skip
"""Everything else that a system knows as an error number is the machine's: ENOSPC, EDQUOT, EIO, EROFS, EMFILE, ENFILE,
ENOMEM, EAGAIN, ESTALE, ETIMEDOUT, ENOTCONN (a mount that is gone) … A new number ends a stage rather than lose a clip."""


def explain(error: BaseException) -> UserError | None:
    """The sentence for ``error``, or for what it came from; None if the machine is not to blame."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if told := _explain(link):
            return told
        link = link.__cause__ or link.__context__
    return None


@contextmanager
def explained() -> Generator[None, None, None]:
    """Turns what `explain` knows into its UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if told := explain(error):
            raise told from error
        raise


def cut_short(path: object = "a file") -> UserError:
    """The sentence for a writer that ended early and does not say why."""
    return UserError(f"{path}: could not be written to its end, most likely because of {_FULL}")


def is_environment_error(error: BaseException) -> bool:
    """Whether ``error`` is a fault of the disk, the memory or the system, and not of the file that was in hand.

    A full disk or a failing mount says nothing of a clip. If it rejected one, the clip would be left out of the run without
    a word, and never be looked at again.
    """
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, OSError) and error.errno in errno.errorcode and error.errno not in _OF_THE_FILE


def told_of_environment(error: BaseException, path: str | os.PathLike[str]) -> str | None:
    """One sentence for an error of the environment at ``path``, with what to do; None if it is the file's own fault."""
    if not is_environment_error(error):
        return None
    why = error.strerror if isinstance(error, OSError) and error.strerror else "out of memory"
    number = error.errno if isinstance(error, OSError) else errno.ENOMEM
    advice = (
        _MEMORY
        if number == errno.ENOMEM
        else _ADVICE.get(number or 0, f"see that the disk is there and well, {_AGAIN}")
    )
    return f"{os.fspath(path)}: {why}; this is a fault of the machine and not of the file, so nothing was rejected: {advice}"


def is_not_writable(error: OSError) -> bool:
    """Whether a place can be read and not written: a store of somebody else, a read-only file system."""
    return error.errno in _NOT_WRITABLE


def _explain(error: BaseException) -> UserError | None:
    text = str(error).strip()
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(text)):
        where = "the GPU's memory" if "CUDA" in text else "memory"
        return UserError(f"{where} is used up ({text.splitlines()[0][:200] if text else 'MemoryError'}); {_MEMORY}")
    code = error.errno if isinstance(error, OSError) else None
    found = None if code is not None else _CODE.search(text)
    if found is not None and not isinstance(error, UserError):
        code = int(found[1] or found[2])
    if code is None:
        written = isinstance(error, RuntimeError) and _TORCH_WRITER.search(text)
        return cut_short(*_noted(error)[:1]) if written else None
    if code == errno.ENOMEM:
        return UserError(f"memory is used up ({os.strerror(code)}); {_MEMORY}")
    if code in _ADVICE:
        path = getattr(error, "filename2", None) or getattr(error, "filename", None)
        noted = _noted(error)
        place = noted[0] if noted else os.strerror(code) if path is None else os.fsdecode(path)
        return UserError(f"{place}: {_ADVICE[code]}{_whose(place) if code in _NOT_WRITABLE else ''}")
    return None


def _whose(place: str) -> str:
    """What to do about a place that can only be read: whether it is in a store or in a results folder, its path tells."""
    parts = Path(place).parts
    if _OF_RESULTS & set(parts) or parts[-1].startswith((".published-", ".compared-")):
        return f": {_RESULTS}"
    return f": {_STORE}" if _OF_STORE & set(parts) or any(map(is_key, parts)) else f": {_STORE}; {_RESULTS}"


def _noted(error: BaseException) -> list[str]:
    """The files that were to be written, innermost first."""
    return [note.removeprefix(NOTE) for note in getattr(error, "__notes__", ()) if note.startswith(NOTE)]
