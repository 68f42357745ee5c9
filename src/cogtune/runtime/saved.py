"""What is read back from the store is held against what was written there: sealed JSON, and SHA256SUMS beside weights.

Sealed JSON holds a ``checksum`` of its other keys. SHA256SUMS is the file of coreutils, so that ``sha256sum -c`` reads
it as well. Files that an earlier version wrote have neither; they are used as they are.
"""

import hashlib
import json
import logging
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from cogtune.errors import UserError
from cogtune.runtime.atomic import write_changed
from cogtune.runtime.paths import inside, is_key

_log = logging.getLogger(__name__)

SUMS = "SHA256SUMS"
_CHECKSUM = "checksum"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


class DamagedError(UserError):
    """Bytes of the store are not those that were written. The message names the file and the command that mends it."""


def how_to_repair(folder: Path) -> str:
    """The command for what is damaged in ``folder``, which is ``<store>/<stage>/<key>``, and what follows from it."""
    if not is_key(folder.name):
        return f"copy it here once more; if you changed it on purpose, delete the {SUMS} beside it"
    store = folder.parent.parent
    named = "" if str(store) == "store" else f" --store {shlex.quote(str(store))}"
    return f"`cogtune store verify {folder.name} --repair{named}` takes it out, and the next run makes it again"


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum."""
    whole = {**value, _CHECKSUM: _seal(value)}
    write_changed(path, json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_sealed(path: Path, keys: Mapping[str, type | tuple[type, ...]], what_to_do: str) -> dict[str, Any]:
    """A JSON object that `write_sealed` wrote, without its checksum, or one that was written before there were any.

    ``keys``: those that must be there, with their types. Raises DamagedError that ends with ``what_to_do``.
    """
    found = read_json(path, keys, what_to_do)
    if found.pop(_CHECKSUM, None) not in (None, _seal(found)):
        raise DamagedError(f"{path}: its content is not what was written (checksum); {what_to_do}")
    return found


def read_json(path: Path, keys: Mapping[str, type | tuple[type, ...]], what_to_do: str) -> dict[str, Any]:
    """A JSON object with at least these ``keys`` of these types. Raises DamagedError, naming the file and the key."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DamagedError(f"{path}: not there; {what_to_do}") from None
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: not complete JSON ({error}); {what_to_do}") from None
    if not isinstance(found, dict):
        raise DamagedError(f"{path}: expected a JSON object, found {_name(found)}; {what_to_do}")
    found = cast(dict[str, Any], found)
    for key, kind in keys.items():
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if key not in found:
            raise DamagedError(f"{path}: has no {key!r}; {what_to_do}")
        if not isinstance(found[key], kinds) or (isinstance(found[key], bool) and bool not in kinds):
            wanted = " or ".join(one.__name__ for one in kinds)
            raise DamagedError(f"{path}: {key}: expected {wanted}, found {_name(found[key])}; {what_to_do}")
    return found


def write_sums(folder: Path, files: Iterable[Path]) -> None:
    """Put the checksums of ``files`` into ``folder``/SHA256SUMS, beside those of other files that are there."""
    known = _sums(folder) if (folder / SUMS).exists() else {}
    for path in files:
        known[path.relative_to(folder).as_posix()] = _digest(path)
    write_changed(folder / SUMS, "".join(f"{known[name]}  {name}\n" for name in sorted(known)))


def drop_unreadable_sums(folder: Path) -> None:
    """Remove a SHA256SUMS of ``folder`` that does not read; `write_sums` adds to it and would stop at it for good."""
    try:
        if (folder / SUMS).exists():
            _sums(folder)
    except DamagedError:
        (folder / SUMS).unlink()


def check_sums(path: Path) -> bool:
    """Hold a file, or all files of a folder, against the SHA256SUMS in one of the two folders above (or in it).

    False if there is none that names it: it was written before there were any, or not by us. Raises DamagedError.
    """
    for folder in (path, path.parent, path.parent.parent):
        if not (folder / SUMS).is_file():
            continue
        prefix = "" if folder == path else path.relative_to(folder).as_posix()
        sums = {name: sum for name, sum in _sums(folder).items() if _below(name, prefix)}
        for name, expected in sums.items():
            file = inside(folder, name, folder / SUMS)
            if not file.is_file() or _digest(file) != expected:
                why = "differs from what was written" if file.exists() else "is not there"
                raise DamagedError(f"{file}: {why} ({SUMS}); {how_to_repair(_result_of(folder))}")
        if sums:
            return True
    return False


def say_unchecked(path: Path) -> None:
    """Tell, once in a process for each path, that it was written before there were checksums."""
    if path not in _TOLD:
        _TOLD.add(path)
        _log.warning("%s: written by an earlier version, which kept no checksums; used as it is", path)


_TOLD: set[Path] = set()


def _result_of(folder: Path) -> Path:
    """The folder of the store that a folder with SHA256SUMS belongs to: itself, or the one above (train's final/)."""
    return folder.parent if is_key(folder.parent.name) else folder


def _below(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(prefix + "/")


def _sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    lines = [_LINE.fullmatch(line) for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    if not all(lines):
        raise DamagedError(f"{path}: does not read; {how_to_repair(_result_of(folder))}")
    return {line[2]: line[1] for line in lines if line}


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _seal(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _name(value: Any) -> str:
    return "null" if value is None else f"{value!r}"[:40]
