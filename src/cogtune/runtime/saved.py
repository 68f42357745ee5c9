"""JSON files with a checksum, which is verified when the store is read.

The key ``checksum`` covers all other keys. Files of earlier versions have none and are used unchecked. (JSON lines:
`jsonl.py`; other files: `sums.py`.)
"""

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from cogtune.errors import UserError
from cogtune.runtime.atomic import write_changed
from cogtune.runtime.paths import is_key

SUMS = "SHA256SUMS"
_CHECKSUM = "checksum"


class DamagedError(UserError):
    """Data in the store is damaged. The message names the file and the command that repairs it."""


def how_to_repair(folder: Path) -> str:
    """The command that repairs ``folder``, which is ``<store>/<stage>/<key>``, and its effect."""
    if not is_key(folder.name):
        return f"copy it again; if you changed it on purpose, delete its {SUMS}"
    store = folder.parent.parent
    named = "" if str(store) == "store" else f" --store {shlex.quote(str(store))}"
    return f"`cogtune store verify {folder.name} --repair{named}` removes it, and the next run recomputes it"


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum."""
    sealed = {**value, _CHECKSUM: _seal(value)}
    write_changed(path, json.dumps(sealed, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_sealed(path: Path, keys: Mapping[str, type | tuple[type, ...]], what_to_do: str) -> dict[str, Any]:
    """A JSON object written by `write_sealed`, without its checksum, or by a version without checksums.

    ``keys``: required keys with their types. Raises DamagedError that ends with ``what_to_do``.
    """
    content = read_json(path, keys, what_to_do)
    checksum = content.pop(_CHECKSUM, None)
    if checksum not in (None, _seal(content)) or (checksum is None and _is_sealed_by_its_last_key(content)):
        raise DamagedError(f"{path}: checksum mismatch; {what_to_do}")
    return content


def read_json(path: Path, keys: Mapping[str, type | tuple[type, ...]], what_to_do: str) -> dict[str, Any]:
    """A JSON object with at least these ``keys`` of these types. Raises DamagedError, naming the file and the key."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DamagedError(f"{path}: missing; {what_to_do}") from None
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: invalid JSON ({error}); {what_to_do}") from None
    if not isinstance(content, dict):
        raise DamagedError(f"{path}: expected a JSON object, found {_name(content)}; {what_to_do}")
    content = cast(dict[str, Any], content)
    for key, kind in keys.items():
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if key not in content:
            raise DamagedError(f"{path}: missing key {key!r}; {what_to_do}")
        if not isinstance(content[key], kinds) or (isinstance(content[key], bool) and bool not in kinds):
            expected = " or ".join(one.__name__ for one in kinds)
            raise DamagedError(f"{path}: {key}: expected {expected}, found {_name(content[key])}; {what_to_do}")
    return content


def _seal(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _is_sealed_by_its_last_key(content: dict[str, Any]) -> bool:
    """Whether the last key is a checksum with a damaged name; the file would look like one of an earlier version."""
    last = next(reversed(content), None)
    return last is not None and content[last] == _seal({key: value for key, value in content.items() if key != last})


def _name(value: Any) -> str:
    return "null" if value is None else f"{value!r}"[:40]
