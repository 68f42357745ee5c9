"""What is read back from the store is held against what was written there: sealed JSON.

It holds a ``checksum`` of its other keys. Files that an earlier version wrote have none; they are used as they are. (Lines of
JSON: `jsonl.py`; other files: `sums.py`.)
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
    content = read_json(path, keys, what_to_do)
    checksum = content.pop(_CHECKSUM, None)
    if checksum not in (None, _seal(content)) or (checksum is None and _is_sealed_by_its_last_key(content)):
        raise DamagedError(f"{path}: its content is not what was written (checksum); {what_to_do}")
    return content


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


def _seal(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _is_sealed_by_its_last_key(content: Mapping[str, Any]) -> bool:
    """Whether the last key is a checksum whose name is damaged; the file would pass for one of an earlier version."""
    last = next(reversed(content), None)
    return last is not None and content[last] == _seal({key: value for key, value in content.items() if key != last})


def _name(value: Any) -> str:
    return "null" if value is None else f"{value!r}"[:40]
