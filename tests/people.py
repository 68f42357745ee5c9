"""Run code as other users of this machine: root may become anybody, and these two share one group."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.workflow.project import REPO, environment

ALICE, BOB, GROUP = 12_301, 12_302, 12_300


@functools.cache
def refusal() -> str:
    """Why no other user can run our code here; "" if one can."""
    if os.geteuid():
        return "only root can become another user"
    if not shutil.which("setpriv"):
        return "no setpriv (util-linux)"
    with someone_can_read() as folder:
        tried = as_user(BOB, folder, "import cogtune, yaml")
    return f"another user cannot run this Python, or read {REPO}: {tried.stderr[-300:]}" if tried.returncode else ""


@contextmanager
def someone_can_read() -> Iterator[Path]:
    """A temporary folder that every user may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="cogtune-people-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def words(user: int, command: list[str], umask: int = 0o077) -> list[str]:
    """The command that runs ``command`` as ``user`` in our group, with a umask that lets nobody else in."""
    # Read everything: the interpreter and the clone may be in root's home. Write permission stays as it is.
    read = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    become = ["setpriv", f"--reuid={user}", f"--regid={user}", f"--groups={GROUP}", *read, "--"]
    return [*become, "sh", "-c", f'umask {umask:03o} && exec "$@"', "sh", *command]


def run(user: int, folder: Path, *command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command in ``folder``."""
    home = {"HOME": str(folder), "PYTHONPATH": f"{REPO}/src:{REPO}", "USER": f"user{user}"}
    return subprocess.run(
        words(user, list(command)),
        cwd=folder,
        env=environment() | home,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def as_user(user: int, folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in ``folder``."""
    return run(user, folder, sys.executable, "-c", code)


def home_of(user: int, folder: Path) -> Path:
    """A folder of one user in ``folder``."""
    home = folder / f"home{user}"
    home.mkdir()
    os.chown(home, user, user)
    return home
