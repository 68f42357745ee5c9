"""Files that are there whole or not at all, also after a kill or a power cut.

A temporary name in the same folder, fsync, rename, fsync of the folder.
"""

import json
import os
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cogtune.runtime.failures import NOTE


@contextmanager
def replacing(path: str | os.PathLike[str], suffix: str = ".tmp") -> Generator[Path, None, None]:
    """Give a temporary name beside ``path``; what stands there when the block ends without an error becomes ``path``.

    Missing folders are made. A reader sees the old content or the new one, never a part of it. ``suffix``: of the
    temporary name, for writers that choose the format by it.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The dot hides it from every glob of the store; a killed writer leaves it behind and it is never read.
    temporary = target.with_name(f".{uuid.uuid4().hex}{suffix}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        error.add_note(f"{NOTE}{target}")
        raise
    sync(target.parent)


def write_changed(path: str | os.PathLike[str], text: str) -> None:
    """`write_text`, but a file that holds ``text`` already is left alone: a finished store needs no permission to write."""
    with suppress(OSError):
        if Path(path).read_bytes() == text.encode():
            return
    write_text(path, text)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Make ``path`` hold ``data``."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Make ``path`` hold ``text`` in UTF-8, with line ends as they are."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any, indent: int | None = 2) -> None:
    """Make ``path`` hold ``value`` as JSON, keys in their own order. NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def sync(path: str | os.PathLike[str]) -> None:
    """fsync a file, or a folder so that the names in it survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
