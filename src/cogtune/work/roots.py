"""The results folders that use a store. `cogtune store gc` keeps what they need.

``store/roots/<key of the path>.json``: the path of a results folder, written once, when a run starts there.
"""

import getpass
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cogtune.runtime.digest import key_of
from cogtune.runtime.failures import is_not_writable
from cogtune.runtime.saved import DamagedError, read_sealed, write_sealed

FOLDER = "roots"
_KEYS: dict[str, type] = {"results": str, "user": str}
WHAT_TO_DO = (
    "`cogtune store verify --repair` removes it; `cogtune store gc` then keeps all that is in the store now, and the next "
    "run in its working directory registers it again"
)


@dataclass(frozen=True)
class Root:
    """A results folder that uses a store. ``file``: where it is registered; ``user``: who started its first run."""

    file: Path
    results: Path
    user: str


def root_file(store: Path, results: Path) -> Path:
    """Where a results folder is registered."""
    return store / FOLDER / f"{key_of({'results': str(results.resolve())})}.json"


def register(store: Path, results: Path) -> None:
    """Register a results folder, once. In a store without write permission nothing is registered: then `gc` of its owner
    cannot know what this folder needs."""
    path = root_file(store, results)
    if path.exists():
        return
    user = "?"
    with suppress(KeyError, OSError):  # a user without a name on this machine
        user = getpass.getuser()
    try:
        write_sealed(path, {"results": str(results.resolve()), "user": user})
    except OSError as error:
        if not is_not_writable(error):
            raise


def read_root(path: Path) -> Root:
    """A registered results folder. Raises DamagedError."""
    content = read_sealed(path, _KEYS, WHAT_TO_DO)
    if path.stem != key_of({"results": content["results"]}):
        raise DamagedError(f"{path}: its content does not match its name; {WHAT_TO_DO}")
    return Root(path, Path(content["results"]), content["user"])


def remove_damaged(path: Path) -> None:
    """Remove a damaged registration. The others count as new from now on: `gc` keeps what is older than all of them, and so
    what the lost results folder needs."""
    path.unlink(missing_ok=True)
    for other in path.parent.glob("*.json"):
        os.utime(other)


def roots_of(store: Path) -> list[Root]:
    """All registered results folders. Raises DamagedError."""
    return [read_root(path) for path in sorted((store / FOLDER).glob("*.json"))]
