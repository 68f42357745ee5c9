"""Walks a data folder: its videos, where their captions are, and what is refused. Nothing is opened.

The folder is a stranger's: names that are not UTF-8, links that lead in circles, FIFOs and sockets are refused one by
one, and each real folder is walked at most once for itself and once behind links, so a walk ends.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from stat import S_ISLNK, S_ISREG
from typing import NamedTuple

from cogtune.data.other_files import LISTS, OtherFiles
from cogtune.errors import UserError
from cogtune.runtime.failures import machine_error_message

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"})
"""Compared in lower case. Upstream reads ``.mp4`` in lower case only and passes over the rest without a word."""
_SUFFIXES = frozenset(suffix[1:] for suffix in VIDEO_SUFFIXES)
_SPECIAL = {
    stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}  # fmt: skip
_NOT_FOLLOWED = "data.params.follow_links: true would follow it"


class Seen(NamedTuple):
    """A video as strings; a million of them pass here.

    ``label_status``: of the caption's own entry, where it is a regular file. ``target``: the real path, where the video
    is reached through a link. ``files``: of a line that sums up files of another kind, how many they are.
    """

    name: str
    path: str
    label: str | None = None
    refused: str | None = None
    label_status: os.stat_result | None = None
    target: str | None = None
    files: int = 0


def label_of(path: Path, root: Path) -> Path:
    """Where the caption of a video is: `.txt` for the suffix, and ``labels`` for the last folder named ``videos``.

    Folders above ``root`` are never renamed, ``root`` itself is if its own name is ``videos``. (Upstream replaces every
    "videos" and every ".mp4" anywhere in the path.)
    """
    relative = path.relative_to(root).with_suffix(".txt")
    parts = list(relative.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "videos":
            parts[index] = "labels"
            return root.joinpath(*parts)
    return (root.with_name("labels") if root.name == "videos" else root) / relative


def walk(root: Path, follow_links: bool) -> Iterator[Seen]:
    """All videos below ``root``: of a folder first its files, then what is in its folders; then what is behind links to
    folders; at last one line for each kind of other files. Hidden files and folders are passed over, as macOS puts
    ``._clip.mp4`` beside clips. Raises UserError when ``root`` cannot be listed, or the machine fails."""
    return _Walk(root, follow_links).all()


def escaped(name: str) -> str:
    """``name`` as it can be written down: bytes that are not UTF-8 as ``\\udcff``."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()


class _Walk:
    def __init__(self, root: Path, follow_links: bool) -> None:
        self._root, self._follow = root, follow_links
        self._real = os.path.realpath(root)
        # A root that is itself named videos has its captions beside it.
        self._labels_inside = os.path.realpath(root.parent if root.name == "videos" else root)
        self._others = OtherFiles()
        self._links: list[tuple[str, str]] = []
        """Links to folders that wait: (path, the real folder that the link is in)."""
        self._behind_links: set[str] = set()

    def all(self) -> Iterator[Seen]:
        if self._root.name == "videos":
            self._count_lists(str(self._root.parent), [name for name in LISTS if (self._root.parent / name).is_file()])
        yield from self._tree(str(self._root), self._real, linked=False)
        while self._links:
            path, parent = self._links.pop(0)
            yield from self._behind(path, parent)
        for pattern, count, told in self._others.lines():
            yield Seen(pattern, escaped(str(self._root)), None, told, files=count)

    def _tree(self, top: str, real: str, linked: bool) -> Iterator[Seen]:
        waiting = [(top, real)]
        while waiting:
            folder, real = waiting.pop()
            if linked:
                if real in self._behind_links:
                    continue
                self._behind_links.add(real)
            listed = self._listed(folder)
            if isinstance(listed, Seen):
                yield listed
                continue
            folders, videos = [], []
            for entry in listed:
                name = entry.name
                suffix = name.rpartition(".")[2].lower()
                if _is_folder(entry):
                    folders.append(entry)
                elif suffix in _SUFFIXES and suffix != name.lower():
                    videos.append(entry)
                elif suffix != "txt":
                    if entry.is_symlink() and not os.path.exists(entry.path):
                        yield self._refused(entry.path, self._status(entry.path)[1])
                    else:
                        self._others.add(suffix, entry.path)
            if folder == str(self._root):
                self._count_lists(folder, [entry.name for entry in listed if entry.name in LISTS])
            for entry in folders:
                if not entry.is_symlink():
                    continue
                if self._follow:
                    self._links.append((entry.path, real))
                else:
                    yield self._refused(entry.path + "/", _not_followed(entry.path))
            inner = [entry for entry in reversed(folders) if not entry.is_symlink()]
            waiting += [(entry.path, f"{real}/{entry.name}") for entry in inner]
            if videos:
                yield from self._in_folder(folder, real if linked else None, videos)

    def _behind(self, path: str, parent: str) -> Iterator[Seen]:
        """What is behind a link to a folder, which lies in the real folder ``parent``."""
        real = os.path.realpath(path)
        if f"{parent}/".startswith(f"{real.rstrip('/')}/"):
            yield self._refused(path + "/", f"a symbolic link that leads in a circle: to {escaped(real)}")
        elif real in self._behind_links:
            yield self._refused(path + "/", f"a folder that another symbolic link leads to as well: {escaped(real)}")
        else:
            yield from self._tree(path, real, linked=True)

    def _listed(self, folder: str) -> list[os.DirEntry[str]] | Seen:
        try:
            with os.scandir(folder) as entries:
                return sorted((entry for entry in entries if entry.name[0] != "."), key=attrgetter("name"))
        except OSError as error:
            if fault := machine_error_message(error, escaped(folder)):
                raise UserError(fault) from None
            if folder == str(self._root):
                raise UserError(_not_a_folder(self._root, error)) from None
            return self._refused(folder + "/", f"a folder that cannot be read: {error.strerror}")

    def _in_folder(self, folder: str, real: str | None, videos: Sequence[os.DirEntry[str]]) -> Iterator[Seen]:
        """What holds for a whole folder is worked out once. ``real``: the folder itself, where a link led to it."""
        at = self._relative(folder)
        before = "" if at == "." else f"{at}/"
        labels = str(label_of(Path(folder, "x.mp4"), self._root).parent)
        closed = not self._follow and not self._is_inside(labels)
        for entry in videos:
            name = entry.name if entry.name.isascii() else escaped(entry.name)
            if not _is_utf8(entry.path):
                yield Seen(before + name, entry.path, None, "its name is not UTF-8; rename it")
                continue
            target = f"{real}/{entry.name}" if real is not None else None
            if not entry.is_file(follow_symlinks=False):
                refused = self._special(entry)
                if refused is not None:
                    yield Seen(before + name, entry.path, None, refused)
                    continue
                target = os.path.realpath(entry.path)
            label = f"{labels}/{entry.name.rpartition('.')[0]}.txt"
            try:
                status, refused = os.lstat(label), None
            except OSError as error:
                if fault := machine_error_message(error, label):
                    raise UserError(fault) from None
                status = refused = None
            if status is not None and (closed or not S_ISREG(status.st_mode)):
                status, refused = None, self._not_regular(label, status, closed)
            if refused is not None:
                yield Seen(before + name, entry.path, None, refused, None, target)
            else:
                yield Seen(before + name, entry.path, label, None, status, target)

    def _special(self, entry: os.DirEntry[str]) -> str | None:
        """Why a video that is no regular file is refused; None for a link to one that is followed."""
        if not entry.is_symlink():
            status, refused = self._status(entry.path)
            return refused or f"not a regular file: {_kind(status)}"
        return self._status(entry.path)[1] if self._follow else _not_followed(entry.path)

    def _not_regular(self, label: str, status: os.stat_result, closed: bool) -> str | None:
        """Why a caption's file that is a link, something odd, or ``closed`` is refused; None for a link that is followed."""
        short = os.path.basename(label)
        if S_ISLNK(status.st_mode):
            refused = self._status(label)[1] if self._follow else _not_followed(label)
            return f"its caption is {refused}" if refused else None
        if not S_ISREG(status.st_mode):
            return f"its caption is not a regular file: {short} is {_kind(status)}"
        return f"its caption is behind a symbolic link: {short}; {_NOT_FOLLOWED}" if closed else None

    def _status(self, path: str) -> tuple[os.stat_result | None, str | None]:
        """(status of what a link leads to, why it is refused): only regular files are used."""
        try:
            status = os.stat(path)
        except OSError as error:
            if fault := machine_error_message(error, escaped(path)):
                raise UserError(fault) from None
            return None, f"a symbolic link that cannot be followed: to {_read_link(path)} ({error.strerror})"
        if not S_ISREG(status.st_mode) and S_ISLNK(os.lstat(path).st_mode):
            return status, f"a symbolic link to what is no regular file: {_read_link(path)} is {_kind(status)}"
        return status, None

    def _count_lists(self, folder: str, names: Sequence[str]) -> None:
        for name in sorted(names):
            self._others.add_list(f"{folder}/{name}")

    def _is_inside(self, path: str) -> bool:
        return f"{os.path.realpath(path)}/".startswith(f"{self._labels_inside.rstrip('/')}/")

    def _refused(self, path: str, reason: str | None) -> Seen:
        ending = "/" if path.endswith("/") else ""
        return Seen(self._relative(path.rstrip("/")) + ending, path, None, reason)

    def _relative(self, path: str) -> str:
        return escaped(Path(path).relative_to(self._root).as_posix())


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _kind(status: os.stat_result | None) -> str:
    return _SPECIAL.get(stat.S_IFMT(status.st_mode), "something else") if status is not None else "something else"


def _not_followed(path: str) -> str:
    return f"a symbolic link that is not followed: to {_read_link(path)}; {_NOT_FOLLOWED}"


def _read_link(path: str) -> str:
    try:
        return escaped(os.readlink(path))
    except OSError:
        return "an unknown place"


def _not_a_folder(root: Path, error: OSError) -> str:
    if isinstance(error, NotADirectoryError):
        return (
            f"{root} is a file; args.train_data and args.valid_data name folders with videos/ and labels/, and lists of "
            f"clips are not read: docs/data.md has a script that writes such a folder from a list"
        )
    return f"{root}: this data folder cannot be read: {error.strerror}"


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
