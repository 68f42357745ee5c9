"""Content hashes of the files and folders in a config, and the check that later reads see the same content."""

import hashlib
import os
import shlex
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cogtune.config.errors import ConfigError
from cogtune.errors import UserError
from cogtune.runtime.digest import digest, file_digest
from cogtune.runtime.typed_json import is_list


@dataclass(frozen=True)
class Source:
    """A file or folder whose content is part of a key.

    ``content``: ``sha256:<64 hex>``, as in the key; ``stamp``: `stamp_of` at the time of hashing, or ""; ``key``: its
    config key, for messages.
    """

    path: str
    content: str
    stamp: str = ""
    key: str = ""


class ContentHashes:
    """sha256 of files and folders, with a cache in the store (``<store>/hashes.json``).

    Cache entries are valid for equal (path, size, mtime and ctime in ns): overwriting weights in place is detected, even
    if the mtime is restored; moving them costs one read. A folder's hash covers the relative names and contents of all
    files in it, except hidden ones and __pycache__.
    """

    def __init__(self, memo: Path) -> None:
        self._memo_path = memo
        self._memo = _read_memo(memo)
        self._dirty = False

    def of(self, path: str | os.PathLike[str], key: str = "") -> str:
        """``sha256:<64 hex>`` of the content at ``path``; ``key`` names the config key in the error."""
        return self.source(path, key).content

    def source(self, path: str | os.PathLike[str], key: str = "") -> Source:
        """The content at ``path`` with its stamp from before hashing, so that a stage can check that it reads the same
        content. Raises ConfigError if ``path`` does not exist."""
        target = Path(path)
        if not target.is_file() and not target.is_dir():
            raise ConfigError(f"no such file or folder: {target}", key=key)
        stamp = stamp_of(target)
        return Source(str(path), _content(target, self._file), stamp, key)

    def joined(self, sources: Iterable[Source]) -> str:
        """The hash of a folder that holds exactly the folders of ``sources``, which are next to each other."""
        state = hashlib.sha256()
        for folder in sorted(Path(source.path) for source in sources):
            for line in _member_lines(folder, self._file, f"{folder.name}/"):
                state.update(line)
        return "sha256:" + state.hexdigest()

    def check_pinned(self, source: Source, pinned: Mapping[str, str]) -> None:
        """Raises ConfigError unless all files of ``source`` are in ``pinned`` (absolute path -> sha256) with their hash."""
        for _, member in _members(Path(source.path)):
            expected, actual = pinned.get(str(member)), self._file(member)
            if actual != expected:
                state = f"sha256 {actual[:16]}…, expected {expected[:16]}…" if expected else "not in the pin"
                raise ConfigError(
                    f"{member}: not the file that was pinned ({state}); move it away and run `cogtune weights get` for it "
                    f"again, or remove its pin from weights/pins.json",
                    key=source.key,
                )

    def _file(self, path: Path) -> str:
        status = path.stat()
        known = self._memo.get(str(path.resolve()))
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        if known and [*known[:2], *known[3:]] == stamp:
            return known[2]
        content_digest = file_digest(path)
        self._memo[str(path.resolve())] = [*stamp[:2], content_digest, stamp[2]]
        self._dirty = True
        return content_digest

    def save(self) -> None:
        """Write the cache if anything was hashed; a race between two writers only costs one read later."""
        if self._dirty:
            from cogtune.runtime.saved import write_sealed

            with suppress(OSError):  # read-only store: the files are hashed again next time
                write_sealed(self._memo_path, self._memo)
            self._dirty = False


def _read_memo(path: Path) -> dict[str, list[Any]]:
    """The entries of a cache; empty if it is damaged. Invalid entries are omitted, so those files are hashed again."""
    from cogtune.runtime.saved import DamagedError, read_sealed

    try:
        entries = read_sealed(path, {}, "")
    except (OSError, DamagedError):
        return {}
    return {name: entry for name, entry in entries.items() if is_list(entry) and len(entry) == 4}


def stamp_of(path: str | os.PathLike[str]) -> str:
    """A digest of file system metadata at ``path``: sizes, mtimes, ctimes, inodes. A ctime cannot be set back, so equal
    stamps mean equal content. Raises OSError if ``path`` does not exist."""
    target = Path(path)
    statuses = [[name, *_status(member)] for name, member in _members(target)]
    if not statuses:
        statuses = [["", *_status(target)]]
    return digest(statuses)


@contextmanager
def proven(sources: Iterable[Source]) -> Generator[Callable[[], None], None, None]:
    """Ensure that reads of ``sources`` inside the block see the content of their keys.

    A file with a changed stamp is hashed first, and the stamps are compared again after the block. The block may call the
    yielded function to check earlier, before it stores something. Raises UserError: nothing may be stored under the key
    of other content.
    """
    stamps = [(source, _prove(source)) for source in sources]

    def check() -> None:
        for source, stamp in stamps:
            if _stamp(source) != stamp:
                raise _changed(source, "while it was read")

    try:
        yield check
    except Exception:
        check()  # a replaced file is the actual cause of the error
        raise
    check()


def restamped(sources: Iterable[Source]) -> list[Source]:
    """The sources, verified, with their current stamps, so that they need not be hashed again."""
    return [replace(source, stamp=_prove(source)) for source in sources]


_PROVED: dict[Source, str] = {}
"""Stamps at which this process has verified a source, to read 10 GB only once."""


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
            f"{where}{source.path}: cannot be read, but was readable when this job was planned ({reason}); restore it, "
            f"or run again"
        ) from None


def _changed(source: Source, when: str) -> UserError:
    where = f"{source.key}: " if source.key else ""
    # A file in a config is identified by its ctime too, which cannot be set back; a clip only by size and mtime.
    again = (
        "run again"
        if source.key
        else f"run `touch {shlex.quote(source.path)}` (its mtime may be unchanged) and run again"
    )
    return UserError(
        f"{where}{source.path}: changed {when}; nothing was stored from it. To use the new file, {again}; "
        f"or restore the old file"
    )


def _content(path: Path, hash_file: Callable[[Path], str]) -> str:
    if path.is_file():
        return "sha256:" + hash_file(path)
    state = hashlib.sha256()
    for line in _member_lines(path, hash_file):
        state.update(line)
    return "sha256:" + state.hexdigest()


def _member_lines(folder: Path, hash_file: Callable[[Path], str], prefix: str = "") -> Iterator[bytes]:
    for name, member in _members(folder):
        yield f"{prefix}{name}\0{hash_file(member)}\n".encode()


def _members(path: Path) -> Iterator[tuple[str, Path]]:
    """(relative name, path) of the files that are hashed; a single file has an empty name."""
    if path.is_file():
        yield "", path
        return
    for member in sorted(file for file in path.rglob("*") if file.is_file()):
        name = member.relative_to(path)
        if not any(part.startswith(".") or part == "__pycache__" for part in name.parts):
            yield str(name), member


def _status(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
