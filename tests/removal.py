"""A guard for tests that remove files: outside of the folder that they name, nothing can be removed in this process.

Python tells its audit hooks of each removal before it happens (os.remove, os.rmdir, os.rename, shutil.rmtree); the hook
here raises for one that leads out. A hook cannot be taken away again, so it is added once and does nothing while no
guard is up. It sees this process only: hostile names never go to a child process.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_EVENTS = {"os.remove": 1, "os.rmdir": 1, "shutil.rmtree": 1, "os.rename": 4}
"""Event -> which of its arguments is the descriptor of the folder that a relative path starts from."""
_ALLOWED: list[str] = []
_ADDED: list[bool] = []


class RemovedOutsideError(BaseException):
    """The test was about to remove something that is not its own. No `except Exception` swallows it."""


@contextmanager
def only_below(folder: Path) -> Iterator[Path]:
    """Inside the block, removing or renaming anything that is not below ``folder`` raises `RemovedOutsideError`.

    ``folder`` must itself be a real folder below the temporary folder of this machine, and not that one.
    """
    allowed, temporary = os.path.realpath(folder), os.path.realpath(tempfile.gettempdir())
    if not os.path.isdir(allowed) or os.path.commonpath([allowed, temporary]) != temporary or allowed == temporary:
        raise RemovedOutsideError(f"{folder} is not a folder below {temporary}")
    if not _ADDED:
        sys.addaudithook(_hook)
        _ADDED.append(True)
    _ALLOWED.append(allowed)
    try:
        yield Path(allowed)
    finally:
        _ALLOWED.pop()


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _ALLOWED or event not in _EVENTS:
        return
    paths = arguments[:2] if event == "os.rename" else arguments[:1]
    at = _EVENTS[event]
    descriptor = arguments[at] if len(arguments) > at and event != "os.rename" else -1
    for path in paths:
        # The folder of what is removed is what counts: a link is removed itself, not what it leads to.
        whole = os.path.join(_folder_of(descriptor), os.fspath(os.fsdecode(path)))
        folder = os.path.realpath(os.path.dirname(whole))
        if not f"{folder}/".startswith(f"{_ALLOWED[-1]}/") or os.path.basename(whole) in ("", ".", ".."):
            raise RemovedOutsideError(f"{event} of {whole}, which is not below {_ALLOWED[-1]}")


def _folder_of(descriptor: int | None) -> str:
    return os.getcwd() if descriptor in (None, -1) else os.readlink(f"/proc/self/fd/{descriptor}")
