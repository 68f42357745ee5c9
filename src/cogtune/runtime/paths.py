"""Validate external names that become paths: keys, experiment names, files named in an index, a list or a slice.

Every such name is checked here before its file is read, written or removed, and only this module removes folders. Two
rules: a name never leads out of its folder, and nothing is removed through a symbolic link. Reading through links below
a folder is allowed (a Hugging Face snapshot consists of links).
"""

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from cogtune.errors import UserError

_KEY = re.compile(r"[0-9a-f]{12}")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_LONGEST_NAME = 200
"""Maximum length of a name; file systems allow 255 bytes, and temporary names of the report add to it."""
_LONGEST_SHOWN, _LONGEST_PART = 80, 255


def is_key(name: object) -> bool:
    """Whether ``name`` is 12 hex digits, as keys are in paths."""
    return isinstance(name, str) and _KEY.fullmatch(name) is not None


def key_folder(parent: Path, key: object, source: object = "") -> Path:
    """``parent / key``. Raises UserError, starting with ``source``, unless ``key`` is 12 hex digits."""
    if not is_key(key):
        raise UserError(
            _with_source(source, f"invalid key {quoted(key)}; expected 12 hex digits, see `cogtune store list`")
        )
    return parent / str(key)


def check_name(name: object) -> str | None:
    """What is wrong with ``name`` as the name of an experiment, a sweep or a run (a folder name); None if valid."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        return "invalid folder name; use letters a-z and A-Z, digits, '_', '-' and '.', and do not start with '.'"
    if len(name) > _LONGEST_NAME:
        return f"too long for a folder name: {len(name)} characters; at most {_LONGEST_NAME} are allowed"
    return None


def named_folder(parent: Path, name: object, source: object = "") -> Path:
    """``parent / name``, to write to, if `check_name` accepts it. Raises UserError, also if it is a link."""
    if problem := check_name(name):
        raise UserError(_with_source(source, f"{quoted(name)}: {problem}"))
    folder = parent / str(name)
    if folder.is_symlink():
        raise UserError(
            f"{folder} is a symbolic link to {os.readlink(folder)}, which cogtune does not write through; remove the link, or "
            f"rename the experiment"
        )
    return folder


def inside(root: Path, name: object, source: object) -> Path:
    """``root / name`` for a ``name`` in the file ``source``: a plain relative path, without `..`.

    Links below ``root`` are not checked. Raises UserError.
    """
    parts = name.split("/") if isinstance(name, str) else []
    if not parts or any(part in ("", ".", "..") for part in parts) or not _is_plain(str(name)):
        raise UserError(f"{source}: contains the path {quoted(name)}; expected a plain relative path inside {root}")
    return root.joinpath(*parts)


def leads_into(path: Path, roots: Iterable[Path]) -> bool:
    """Whether ``path``, with all links followed, is inside one of ``roots``. False for loops of links and invalid paths."""
    if not _is_plain(str(path)):
        return False
    try:
        # Not Path.resolve: before Python 3.13 it raises RuntimeError at a loop of links.
        real = os.path.realpath(path)
        return any(Path(real).is_relative_to(os.path.realpath(root)) for root in roots) and not os.path.islink(real)
    except (ValueError, OSError):
        return False


def remove_folder(folder: Path, root: Path) -> None:
    """Remove a folder that is strictly below ``root``, and what is in it; links in it are removed, never followed.

    Raises UserError, and removes nothing, for what `check_removable` refuses.
    """
    check_removable(folder, root)
    shutil.rmtree(folder)


def check_removable(folder: Path, root: Path) -> None:
    """Raises UserError if ``folder`` is a link, is reached through a link below ``root``, is outside ``root``, or is not a
    folder."""
    folder, root = Path(os.path.abspath(folder)), Path(os.path.abspath(root))
    if folder == root or not folder.is_relative_to(root):
        raise UserError(f"{folder}: not inside {root}; nothing was removed")
    expected = os.path.join(os.path.realpath(root), folder.relative_to(root))
    if (real := os.path.realpath(folder)) != expected:
        raise UserError(
            f"{folder}: a symbolic link to {real}; nothing was removed, because cogtune does not remove "
            f"anything through a link. Remove {real} or the link yourself"
        )
    if not folder.is_dir():
        raise UserError(f"{folder}: not a folder; nothing was removed")


def remove_own(path: Path) -> None:
    """Remove a file, a folder, or a link (not its target) that cogtune created at ``path``."""
    if path.is_dir() and not path.is_symlink():
        remove_folder(path, path.parent)
    else:
        path.unlink(missing_ok=True)


def quoted(name: object) -> str:
    """``name`` for a message: quoted, on one line, shortened."""
    text = ascii(name) if isinstance(name, str) and not _is_plain(name) else repr(name)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"


def _is_plain(name: str) -> bool:
    """Whether it is a valid path and printable: UTF-8, no control characters, no part that is too long."""
    try:
        if any(len(part.encode()) > _LONGEST_PART for part in name.split("/")):
            return False
    except UnicodeEncodeError:
        return False
    return all(ord(letter) >= 32 and ord(letter) != 127 for letter in name)


def _with_source(source: object, message: str) -> str:
    return f"{source}: {message}" if str(source) else message
