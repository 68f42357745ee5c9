"""Content hashes of the files and folders that a config names, and the proof that what is read later is still that content."""

import hashlib
import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cogtune.config.errors import ConfigError
from cogtune.errors import UserError
from cogtune.runtime.digest import digest, file_digest


@dataclass(frozen=True)
class Source:
    """A file or folder whose content is part of a key.

    ``content``: ``sha256:<64 hex>``, as in the key; ``stamp``: `stamp_of` at the moment when that was known, "" if it was
    not kept; ``key``: the config key that names it, for messages.
    """

    path: str
    content: str
    stamp: str = ""
    key: str = ""


class ContentHashes:
    """sha256 of files and folders, with a memo that lives in the store (``<store>/hashes.json``).

    The memo trusts (path, size, mtime and ctime in ns): overwriting weights in place is seen, also where the mtime is put
    back; moving them costs one read. A folder's hash covers the relative names and contents of all files below it, except
    hidden ones and __pycache__.
    """

    def __init__(self, memo: Path) -> None:
        self._memo_path = memo
        self._memo = _read_memo(memo)
        self._dirty = False

    def of(self, path: str | os.PathLike[str], key: str = "") -> str:
        """``sha256:<64 hex>`` of the content at ``path``; ``key`` names the config key in the error."""
        return self.source(path, key).content

    def source(self, path: str | os.PathLike[str], key: str = "") -> Source:
        """The content at ``path`` with the stamp from before it was hashed, so that a stage can prove that it reads the
        same. Raises ConfigError for a path where nothing is."""
        target = Path(path)
        if not target.is_file() and not target.is_dir():
            raise ConfigError(f"no such file or folder: {target}", key=key)
        stamp = stamp_of(target)
        return Source(str(path), _content(target, self._file), stamp, key)

    def _file(self, path: Path) -> str:
        status = path.stat()
        known = self._memo.get(str(path.resolve()))
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        if known and [*known[:2], *known[3:]] == stamp:
            return known[2]
        found = file_digest(path)
        self._memo[str(path.resolve())] = [*stamp[:2], found, stamp[2]]
        self._dirty = True
        return found

    def save(self) -> None:
        """Write the memo if anything was hashed; a lost race between two writers costs one read later."""
        if self._dirty:
            from cogtune.runtime.saved import write_sealed

            with suppress(OSError):  # a store that can only be read: the files are hashed again next time
                write_sealed(self._memo_path, self._memo)
            self._dirty = False


def _read_memo(path: Path) -> dict[str, list[Any]]:
    """What a memo says; of a damaged one nothing, and entries that no version wrote are left out: those files are hashed
    again."""
    from cogtune.runtime.saved import DamagedError, read_sealed

    try:
        found = read_sealed(path, {}, "")
    except (OSError, DamagedError):
        return {}
    return {name: entry for name, entry in found.items() if isinstance(entry, list) and len(entry) == 4}


def stamp_of(path: str | os.PathLike[str]) -> str:
    """What the file system tells of the files at ``path``: sizes, mtimes, ctimes, inodes. Nobody can put a ctime back, so
    what has the same stamp has the same content. Raises OSError when it is not there."""
    target = Path(path)
    found = [[name, *_status(member)] for name, member in _members(target)]
    if not found:
        found = [["", *_status(target)]]
    return digest(found)


@contextmanager
def proven(sources: Iterable[Source]) -> Iterator[Callable[[], None]]:
    """Inside the block, what is read at the paths of ``sources`` is the content of their keys.

    A file with another stamp than the one that is known is hashed first, and what was read counts only if the stamp is
    the same after the block. The block may call what it is given to ask for that earlier, before it stores something.
    Raises UserError with one sentence: nothing may be stored under the key of another content.
    """
    stamps = [(source, _prove(source)) for source in sources]

    def check() -> None:
        for source, stamp in stamps:
            if _stamp(source) != stamp:
                raise _changed(source, "while it was read")

    try:
        yield check
    except Exception:
        check()  # a file that was replaced is the reason, whatever the reader stumbled over
        raise
    check()


def restamped(sources: Iterable[Source]) -> list[Source]:
    """The sources, proved now, with the stamps that they have now: whoever gets them need not hash them again."""
    return [replace(source, stamp=_prove(source)) for source in sources]


_PROVED: dict[Source, str] = {}
"""Stamp under which this process has hashed a source and found its content: one read of 10 GB is enough."""


def _prove(source: Source) -> str:
    stamp = _stamp(source)
    if stamp in (source.stamp, _PROVED.get(source)):
        return stamp
    if _content(Path(source.path), file_digest) != source.content:
        raise _changed(source, "since this job was planned")
    if _stamp(source) != stamp:
        raise _changed(source, "while it was read")
    if source.stamp:  # weights and plugins, few and large; clips are many, and each is read once
        _PROVED[source] = stamp
    return stamp


def _stamp(source: Source) -> str:
    try:
        return stamp_of(source.path)
    except OSError as error:
        where = f"{source.key}: " if source.key else ""
        reason = error.strerror or error
        raise UserError(
            f"{where}{source.path}: cannot be read now, though it was when this job was planned ({reason}); bring it back, "
            f"or run again"
        ) from None


def _changed(source: Source, when: str) -> UserError:
    where = f"{source.key}: " if source.key else ""
    # A config's file is known by its ctime too, which nobody can set back; a clip is found by size and mtime alone.
    again = (
        "run again"
        if source.key
        else f"run `touch {shlex.quote(source.path)}` (its mtime may be the old one's) and run again"
    )
    return UserError(
        f"{where}{source.path}: changed {when}, and nothing was stored from it; to use the new file, {again}: the work is "
        f"then planned for it; or put the old file back"
    )


def _content(path: Path, hash_file: Callable[[Path], str]) -> str:
    if path.is_file():
        return "sha256:" + hash_file(path)
    state = hashlib.sha256()
    for name, member in _members(path):
        state.update(f"{name}\0{hash_file(member)}\n".encode())
    return "sha256:" + state.hexdigest()


def _members(path: Path) -> Iterator[tuple[str, Path]]:
    """(relative name, path) of the files that count; a file is its own only member, without a name."""
    if path.is_file():
        yield "", path
        return
    for member in sorted(found for found in path.rglob("*") if found.is_file()):
        name = member.relative_to(path)
        if not any(part.startswith(".") or part == "__pycache__" for part in name.parts):
            yield str(name), member


def _status(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
