"""Write files atomically, safe against kills and power cuts.

Write to a temporary name in the same folder, fsync, rename, fsync the folder.
"""

import json
import os
import stat
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cogtune.runtime.failures import NOTE


@contextmanager
def replacing(path: str | os.PathLike[str], suffix: str = ".tmp") -> Generator[Path, None, None]:
    """Yield a temporary path; if the block ends without an error, it replaces ``path``.

    Missing folders are created. Readers see the old or the new content, never a part of it. ``suffix``: of the
    temporary name, for writers that choose the format by it.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The leading dot hides it from all globs of the store; a file left by a killed writer is never read.
    temporary = target.with_name(f".{uuid.uuid4().hex}{suffix}")
    try:
        yield temporary
        _follow_umask(temporary)
        sync(temporary)
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        error.add_note(f"{NOTE}{target}")
        raise
    sync(target.parent)


def _follow_umask(path: Path) -> None:
    """Give a new file at least the permissions that the umask allows: safetensors 0.8 creates its files for their owner
    alone, so that no colleague could read them."""
    umask = os.umask(0o077)  # there is no way to only read it
    os.umask(umask)
    mode = stat.S_IMODE(path.stat().st_mode)
    if (wanted := mode | (0o666 & ~umask)) != mode:
        path.chmod(wanted)


def replace_link(path: Path, target: Path) -> None:
    """Make ``path`` a link to ``target``, in place of a link that may be there. It is relative, so that both can move
    together."""
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    temporary.symlink_to(
        os.path.relpath(target.absolute(), path.parent.absolute()), target_is_directory=target.is_dir()
    )
    try:
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_changed(path: str | os.PathLike[str], text: str) -> None:
    """Like `write_text`, but skip files that already contain ``text``: a finished store needs no write permission."""
    with suppress(OSError):
        if Path(path).read_bytes() == text.encode():
            return
    write_text(path, text)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` atomically, in UTF-8, with line ends unchanged."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any, indent: int | None = 2) -> None:
    """Write ``value`` to ``path`` atomically as JSON, keys in their own order. NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def sync(path: str | os.PathLike[str]) -> None:
    """fsync a file, or a folder (so that its file names survive a power cut)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
