"""Names from outside that become paths: keys, names of experiments, files that an index, a list or a slice names.

Every such name comes through here before a file is read, written or removed by it; and folders are removed nowhere
else. Two rules: a name never leads out of the folder that it belongs to, and nothing is removed through a symbolic
link. Reading through links below a folder is the user's own arrangement (a Hugging Face snapshot is made of them).
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
"""Letters of a name; file systems take 255 bytes, and the report's temporary names and markers stand around it."""
_LONGEST_SHOWN, _LONGEST_PART = 80, 255


def is_key(name: object) -> bool:
    """Whether ``name`` is 12 hex digits, as keys are in paths."""
    return isinstance(name, str) and _KEY.fullmatch(name) is not None


def key_folder(parent: Path, key: object, source: object = "") -> Path:
    """``parent / key``. Raises UserError, which begins with ``source``, unless ``key`` is 12 hex digits."""
    if not is_key(key):
        raise UserError(_told(source, f"{shown(key)} is no key; expected 12 hex digits, as `cogtune store list` shows"))
    return parent / str(key)


def check_name(name: object) -> str | None:
    """What is wrong with ``name`` as the name of an experiment, a sweep or a run, which becomes a folder; None: nothing."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        return "a name becomes a folder: use the letters a to z (either case), digits, '_', '-', '.', no '.' in front"
    if len(name) > _LONGEST_NAME:
        return f"a name becomes a folder: it has {len(name)} letters; at most {_LONGEST_NAME} fit"
    return None


def named_folder(parent: Path, name: object, source: object = "") -> Path:
    """``parent / name`` for what `check_name` accepts, to write into. Raises UserError; also where a link stands there."""
    if problem := check_name(name):
        raise UserError(_told(source, f"{shown(name)}: {problem}"))
    folder = parent / str(name)
    if folder.is_symlink():
        raise UserError(
            f"{folder} is a symbolic link to {os.readlink(folder)}; nothing is written through it: remove the link, or "
            f"give the experiment another name"
        )
    return folder


def inside(root: Path, name: object, source: object) -> Path:
    """``root / name``, where ``name`` stands in the file ``source``: one plain relative path, without `..`.

    Links below ``root`` are not looked at. Raises UserError.
    """
    parts = name.split("/") if isinstance(name, str) else []
    if not parts or any(part in ("", ".", "..") for part in parts) or not _is_plain(str(name)):
        raise UserError(f"{source}: names {shown(name)}; expected a file inside {root}, as a plain relative path")
    return root.joinpath(*parts)


def leads_into(path: Path, roots: Iterable[Path]) -> bool:
    """Whether ``path``, all links followed, lies in one of ``roots``. Loops of links, and what cannot be a path, do not."""
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
    """Raises UserError where ``folder`` is a link, is reached through one below ``root``, lies elsewhere, or is none."""
    folder, root = Path(os.path.abspath(folder)), Path(os.path.abspath(root))
    if folder == root or not folder.is_relative_to(root):
        raise UserError(f"{folder}: is not inside {root}; nothing was removed")
    expected = os.path.join(os.path.realpath(root), folder.relative_to(root))
    if (real := os.path.realpath(folder)) != expected:
        raise UserError(
            f"{folder}: a symbolic link leads from there to {real}; nothing was removed, since nothing is removed "
            f"through a link: remove {real} yourself, or the link"
        )
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder; nothing was removed")


def remove_own(path: Path) -> None:
    """Remove what a run of ours left at ``path``: a file, a folder, or a link (itself, not what it leads to)."""
    if path.is_dir() and not path.is_symlink():
        remove_folder(path, path.parent)
    else:
        path.unlink(missing_ok=True)


def shown(name: object) -> str:
    """``name`` for a message: quoted, one line, not longer than a line."""
    text = ascii(name) if isinstance(name, str) and not _is_plain(name) else repr(name)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"


def _is_plain(name: str) -> bool:
    """Whether it can be a path and be written down: UTF-8, no control characters, no part that is too long."""
    try:
        if any(len(part.encode()) > _LONGEST_PART for part in name.split("/")):
            return False
    except UnicodeEncodeError:
        return False
    return all(ord(letter) >= 32 and ord(letter) != 127 for letter in name)


def _told(source: object, message: str) -> str:
    return f"{source}: {message}" if str(source) else message
