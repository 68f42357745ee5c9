"""List the videos of a data folder, their caption files, and the files that are refused. No file is opened.

The content of the folder is not trusted: names that are not UTF-8, circular links, FIFOs and sockets are refused one by
one. Each real folder is listed at most once directly and once through links, so the walk ends.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from stat import S_ISLNK, S_ISREG
from typing import NamedTuple

from cogtune.data.caption_list import NAMES, READERS
from cogtune.data.other_files import LISTS, OtherFiles
from cogtune.errors import UserError
from cogtune.runtime.failures import machine_error_message

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"})
"""Compared in lower case. Upstream reads only ``.mp4`` in lower case and silently ignores the others."""
_SUFFIXES = frozenset(suffix[1:] for suffix in VIDEO_SUFFIXES)
_SPECIAL = {
    stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}  # fmt: skip
_NOT_FOLLOWED = "data.params.follow_links: true would follow it"


class WalkEntry(NamedTuple):
    """A video, the list of captions, or a summary of other files of one kind. Plain strings, because there may be a million.

    ``label``: path of the caption file. ``refused``: why the file is not used. ``label_status``: status of the caption
    file if it is a regular file. ``target``: the real path if the video is reached through a link. ``files``: number of
    files in a summary, else 0. ``has_captions``: it is the list of captions (`caption_list.py`), not a video.
    """

    name: str
    path: str
    label: str | None = None
    refused: str | None = None
    label_status: os.stat_result | None = None
    target: str | None = None
    files: int = 0
    has_captions: bool = False


def label_of(path: Path, root: Path) -> Path:
    """The path of a video's caption: the suffix becomes `.txt`, and the last folder named ``videos`` becomes
    ``labels``.

    Folders above ``root`` are never renamed; ``root`` is, if its own name is ``videos``. (Upstream replaces every
    "videos" and every ".mp4" anywhere in the path.)
    """
    relative = path.relative_to(root).with_suffix(".txt")
    parts = list(relative.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "videos":
            parts[index] = "labels"
            return root.joinpath(*parts)
    return (root.with_name("labels") if root.name == "videos" else root) / relative


def walk(root: Path, follow_links: bool) -> Iterator[WalkEntry]:
    """The list of captions in ``root``, if it has one; all videos below it: the files of each folder, then its subfolders,
    then linked folders; then one summary for each kind of other files. Hidden files and folders are skipped, because
    macOS writes ``._clip.mp4`` beside clips. Raises UserError if ``root`` or its list of captions cannot be used, or for
    a failure of the machine."""
    return _Walk(root, follow_links).all()


def escaped(name: str) -> str:
    """``name`` as valid UTF-8: other bytes are escaped as ``\\udcff``."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()


class _Walk:
    def __init__(self, root: Path, follow_links: bool) -> None:
        self._root, self._follow = root, follow_links
        self._real = os.path.realpath(root)
        # If the root itself is named videos, its captions are in the folder beside it.
        self._labels_inside = os.path.realpath(root.parent if root.name == "videos" else root)
        self._other_files = OtherFiles()
        self._links: list[tuple[str, str]] = []
        """Links to folders that are not walked yet: (path, real path of the folder that contains the link)."""
        self._linked_folders: set[str] = set()

    def all(self) -> Iterator[WalkEntry]:
        if self._root.name == "videos":
            names = LISTS | READERS.keys()
            self._count_lists(str(self._root.parent), [name for name in names if (self._root.parent / name).is_file()])
        yield from self._walk_tree(str(self._root), self._real, linked=False)
        while self._links:
            path, parent = self._links.pop(0)
            yield from self._in_linked_folder(path, parent)
        for pattern, count, message in self._other_files.lines():
            yield WalkEntry(pattern, escaped(str(self._root)), None, message, files=count)

    def _walk_tree(self, top: str, real: str, linked: bool) -> Iterator[WalkEntry]:
        waiting = [(top, real)]
        while waiting:
            folder, real = waiting.pop()
            if linked:
                if real in self._linked_folders:
                    continue
                self._linked_folders.add(real)
            listed = self._list_folder(folder)
            if isinstance(listed, WalkEntry):  # refused
                yield listed
                continue
            folders, videos, caption_list = [], [], None
            if folder == str(self._root):
                self._count_lists(folder, [entry.name for entry in listed if entry.name in LISTS])
                caption_list = self._caption_list(listed)
                if caption_list is not None:
                    yield caption_list
            for entry in listed:
                name = entry.name
                suffix = name.rpartition(".")[2].lower()
                if _is_folder(entry):
                    folders.append(entry)
                elif suffix in _SUFFIXES and suffix != name.lower():
                    videos.append(entry)
                elif suffix != "txt" and (caption_list is None or entry.path != caption_list.path):
                    if entry.is_symlink() and not os.path.exists(entry.path):
                        yield self._refuse(entry.path, self._status(entry.path)[1])
                    else:
                        self._other_files.add(suffix, entry.path)
            for entry in folders:
                if not entry.is_symlink():
                    continue
                if self._follow:
                    self._links.append((entry.path, real))
                else:
                    yield self._refuse(entry.path + "/", _not_followed(entry.path))
            subfolders = [entry for entry in reversed(folders) if not entry.is_symlink()]
            waiting += [(entry.path, f"{real}/{entry.name}") for entry in subfolders]
            if videos:
                yield from self._videos_of(folder, real if linked else None, videos)

    def _caption_list(self, listed: Sequence[os.DirEntry[str]]) -> WalkEntry | None:
        """The list of captions among the files of the root. Raises UserError if there are two, or if it is not used."""
        lists = [entry for entry in listed if entry.name in READERS and not _is_folder(entry)]
        if not lists:
            return None
        if len(lists) > 1:
            raise UserError(f"{self._root}: both {' and '.join(entry.name for entry in lists)} hold captions; keep one")
        path, target = lists[0].path, None
        if lists[0].is_symlink():
            refused, target = self._status(path)[1] if self._follow else _not_followed(path), os.path.realpath(path)
            if refused is not None:
                raise UserError(f"{path}: {refused}")
        return WalkEntry(lists[0].name, path, target=target, has_captions=True)

    def _in_linked_folder(self, path: str, parent: str) -> Iterator[WalkEntry]:
        """The videos in a linked folder. ``parent``: real path of the folder that contains the link."""
        real = os.path.realpath(path)
        if f"{parent}/".startswith(f"{real.rstrip('/')}/"):
            yield self._refuse(path + "/", f"a symbolic link that leads in a circle: to {escaped(real)}")
        elif real in self._linked_folders:
            yield self._refuse(path + "/", f"a folder that another symbolic link leads to as well: {escaped(real)}")
        else:
            yield from self._walk_tree(path, real, linked=True)

    def _list_folder(self, folder: str) -> list[os.DirEntry[str]] | WalkEntry:
        try:
            with os.scandir(folder) as entries:
                return sorted((entry for entry in entries if entry.name[0] != "."), key=attrgetter("name"))
        except OSError as error:
            if fault := machine_error_message(error, escaped(folder)):
                raise UserError(fault) from None
            if folder == str(self._root):
                raise UserError(_not_a_folder(self._root, error)) from None
            return self._refuse(folder + "/", f"a folder that cannot be read: {error.strerror}")

    def _videos_of(self, folder: str, real: str | None, videos: Sequence[os.DirEntry[str]]) -> Iterator[WalkEntry]:
        """The videos of one folder; paths are computed once per folder. ``real``: its real path if it is reached by a
        link."""
        relative = self._relative(folder)
        prefix = "" if relative == "." else f"{relative}/"
        labels = str(label_of(Path(folder, "x.mp4"), self._root).parent)
        outside = not self._follow and not self._is_inside(labels)
        for entry in videos:
            name = entry.name if entry.name.isascii() else escaped(entry.name)
            if not _is_utf8(entry.path):
                yield WalkEntry(prefix + name, entry.path, None, "its name is not UTF-8; rename it")
                continue
            target = f"{real}/{entry.name}" if real is not None else None
            if not entry.is_file(follow_symlinks=False):
                refused = self._video_refusal(entry)
                if refused is not None:
                    yield WalkEntry(prefix + name, entry.path, None, refused)
                    continue
                target = os.path.realpath(entry.path)
            label = f"{labels}/{entry.name.rpartition('.')[0]}.txt"
            try:
                status, refused = os.lstat(label), None
            except OSError as error:
                if fault := machine_error_message(error, label):
                    raise UserError(fault) from None
                status = refused = None
            if status is not None and (outside or not S_ISREG(status.st_mode)):
                status, refused = None, self._caption_refusal(label, status, outside)
            if refused is not None:
                yield WalkEntry(prefix + name, entry.path, None, refused, None, target)
            else:
                yield WalkEntry(prefix + name, entry.path, label, None, status, target)

    def _video_refusal(self, entry: os.DirEntry[str]) -> str | None:
        """Why a video that is not a regular file is refused; None for a link that is followed to a regular file."""
        if not entry.is_symlink():
            status, refused = self._status(entry.path)
            return refused or f"not a regular file: {_kind(status)}"
        return self._status(entry.path)[1] if self._follow else _not_followed(entry.path)

    def _caption_refusal(self, label: str, status: os.stat_result, outside: bool) -> str | None:
        """Why a caption is refused that is a link, a special file, or ``outside`` the root; None if its link is
        followed."""
        short = os.path.basename(label)
        if S_ISLNK(status.st_mode):
            refused = self._status(label)[1] if self._follow else _not_followed(label)
            return f"its caption is {refused}" if refused else None
        if not S_ISREG(status.st_mode):
            return f"its caption is not a regular file: {short} is {_kind(status)}"
        return f"its caption is behind a symbolic link: {short}; {_NOT_FOLLOWED}" if outside else None

    def _status(self, path: str) -> tuple[os.stat_result | None, str | None]:
        """(status of a link's target, why it is refused, or None): only regular files are used."""
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
            self._other_files.add_list(f"{folder}/{name}")

    def _is_inside(self, path: str) -> bool:
        return f"{os.path.realpath(path)}/".startswith(f"{self._labels_inside.rstrip('/')}/")

    def _refuse(self, path: str, reason: str | None) -> WalkEntry:
        ending = "/" if path.endswith("/") else ""
        return WalkEntry(self._relative(path.rstrip("/")) + ending, path, None, reason)

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
            f"{root} is a file; args.train_data and args.valid_data name folders of clips. Captions are read from "
            f"{NAMES} in such a folder; for other lists see docs/data.md"
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
