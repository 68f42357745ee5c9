"""Turn errors of the machine (full disk, no permission, out of memory) into one sentence with advice.

Such errors come from many places: Python's own calls, safetensors (its message ends in ``os error 28``), torch's writer
and allocators (RuntimeError), ffmpeg. They are not bugs and lose nothing: finished work is on disk, and the same command
resumes. Also decides whether an error is caused by the current file (the file is rejected) or by the machine (the stage
fails).
"""

import errno
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from cogtune.errors import UserError
from cogtune.runtime.paths import is_key
from cogtune.runtime.shared import owner_and_mode

_AGAIN = "then run the same command again; finished work is kept"
_FULL = f"no space left on device; free some space or use another disk (store_dir, results_dir in config/config.yaml), {_AGAIN}"
_DENIED = "no write permission"
_STORE = (
    "the store is read-only for you, and does not contain all results needed; ask its owner to let your group write "
    "(docs/shared_store.md), or use your own store (store_dir in config/config.yaml)"
)
_RESULTS = "reports, receipts and logs need a writable results folder (results_dir in config/config.yaml)"
_OF_RESULTS = frozenset({".receipts", ".runs", ".logs"})
_OF_STORE = frozenset({"slices", "locks", "records", "scan"})
_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: f"disk quota exceeded; free some space or use another disk, {_AGAIN}",
    errno.EFBIG: f"file size limit exceeded (`ulimit -f`, or the file system); raise it, {_AGAIN}",
    errno.EIO: f"input/output error of the disk or network; check the system log, {_AGAIN}",
    errno.EROFS: f"read-only file system: {_DENIED}",
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EMFILE: f"too many open files; raise the limit (`ulimit -n`), {_AGAIN}",
    errno.ENFILE: f"too many open files on this machine; close some programs, {_AGAIN}",
    errno.ESTALE: f"stale file handle of a network file system; mount it again, {_AGAIN}",
    errno.ENOMEM: "",
}
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
NOTE = "while writing "
"""Prefix of the note on an error that names the target file; the error's own file name is a temporary one, or none."""
_CODE = re.compile(r"\(os error ([0-9]+)\)|\[Errno ([0-9]+)\]")
_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|std::bad_alloc|bad allocation", re.I
)
_TORCH_WRITER = re.compile(r"PytorchStreamWriter failed|inline_container\.cc.*unexpected pos|unexpected pos \d+ vs \d+")
_MEMORY = (
    f"reduce args.encode_batch, args.text_batch, args.sampling_batch or the micro batch size "
    f"(deepspeed.train_micro_batch_size_per_gpu), or set args.checkpoint_activations: full (`cogtune plan` estimates memory), {_AGAIN}"
)

_OF_THE_FILE = frozenset({
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EILSEQ,
    errno.EINVAL, errno.ENXIO, errno.ENODEV, errno.EFBIG, errno.EOVERFLOW, errno.ESPIPE, errno.ENODATA, errno.EPIPE,
})  # fmt: skip
"""Error numbers caused by a file. All others are caused by the machine: ENOSPC, EDQUOT, EIO, EROFS, EMFILE, ENFILE,
ENOMEM, EAGAIN, ESTALE, ETIMEDOUT, ENOTCONN (a lost mount) … An unknown number fails the stage rather than lose a clip."""


_REQUESTED = re.compile(r"tried to allocate ([\d.]+ ?\w+)", re.I)
_CAPACITY = re.compile(r"GPU (\d+) has a total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free", re.I)


class NoMemoryError(UserError):
    """Memory ran out. ``gpu``: that of a GPU; ``request``: what was requested and what the device has, as far as known."""

    def __init__(self, text: str) -> None:
        self.gpu = "CUDA" in text
        requested, capacity = _REQUESTED.search(text), _CAPACITY.search(text)
        parts = [f"it requested {_gib(requested[1])} more"] if requested else []
        parts += [f"GPU {capacity[1]} has {capacity[2]}, of which {capacity[3]} is free"] if capacity else []
        self.request = "; ".join(parts)
        first = text.splitlines()[0][:200] if text else "MemoryError"
        super().__init__(f"out of {'GPU memory' if self.gpu else 'memory'} ({first}); {_MEMORY}")


def _gib(size: str) -> str:
    """``20.00 GiB`` as it is; ``4611686018427387904 bytes`` in GiB."""
    count, _, unit = size.partition(" ")
    return f"{int(count) / 2**30:.2f} GiB" if unit == "bytes" else size


def explain(error: BaseException) -> UserError | None:
    """The UserError for ``error`` or one of its causes; None if it is not an error of the machine."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if message := _explain(link):
            return message
        link = link.__cause__ or link.__context__
    return None


@contextmanager
def explained() -> Generator[None, None, None]:
    """Convert errors of the machine to the UserError of `explain`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if message := explain(error):
            raise message from error
        raise


def cut_short(path: object = "a file") -> UserError:
    """The UserError for a writer that stopped early without a reason."""
    return UserError(f"{path}: could not be written completely, probably because of {_FULL}")


def is_environment_error(error: BaseException) -> bool:
    """Whether ``error`` is caused by the disk, the memory or the system, not by the current file.

    A full disk or a failing mount must not reject a clip: the clip would be left out silently, and never be checked again.
    """
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, OSError) and error.errno in errno.errorcode and error.errno not in _OF_THE_FILE


def machine_error_message(error: BaseException, path: str | os.PathLike[str]) -> str | None:
    """The message with advice for an error of the machine at ``path``; None if the file itself causes it."""
    if not is_environment_error(error):
        return None
    why = error.strerror if isinstance(error, OSError) and error.strerror else "out of memory"
    number = error.errno if isinstance(error, OSError) else errno.ENOMEM
    advice = _MEMORY if number == errno.ENOMEM else _ADVICE.get(number or 0, f"check the disk, {_AGAIN}")
    return f"{os.fspath(path)}: {why}; this is an error of the machine, not of the file, so the file was not rejected: {advice}"


def is_not_writable(error: OSError) -> bool:
    """Whether a path is readable but not writable: another user's store, a read-only file system."""
    return error.errno in _NOT_WRITABLE


def _explain(error: BaseException) -> UserError | None:
    text = str(error).strip()
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(text)):
        return NoMemoryError(text)
    code = error.errno if isinstance(error, OSError) else None
    match = None if code is not None else _CODE.search(text)
    if match is not None and not isinstance(error, UserError):
        code = int(match[1] or match[2])
    if code is None:
        written = isinstance(error, RuntimeError) and _TORCH_WRITER.search(text)
        return cut_short(*_noted(error)[:1]) if written else None
    if code == errno.ENOMEM:
        return UserError(f"out of memory ({os.strerror(code)}); {_MEMORY}")
    if code in _ADVICE:
        path = getattr(error, "filename2", None) or getattr(error, "filename", None)
        noted = _noted(error)
        place = noted[0] if noted else os.strerror(code) if path is None else os.fsdecode(path)
        return UserError(f"{place}: {_ADVICE[code]}{_owner(place) + _whose(place) if code in _NOT_WRITABLE else ''}")
    return None


def _whose(place: str) -> str:
    """Advice for a path without write permission, depending on whether it is in a store or a results folder."""
    parts = Path(place).parts
    if _OF_RESULTS & set(parts) or parts[-1].startswith((".published-", ".compared-")):
        return f": {_RESULTS}"
    return f": {_STORE}" if _OF_STORE & set(parts) or any(map(is_key, parts)) else f": {_STORE}; {_RESULTS}"


def _owner(place: str) -> str:
    """Who may write to ``place``; "" if that cannot be read."""
    nearest = next((path for path in (Path(place), *Path(place).parents) if path.exists()), None)
    return f" ({nearest}: {owner_and_mode(nearest)})" if nearest else ""


def _noted(error: BaseException) -> list[str]:
    """The target files of an error, innermost first."""
    return [note.removeprefix(NOTE) for note in getattr(error, "__notes__", ()) if note.startswith(NOTE)]
