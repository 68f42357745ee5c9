"""A store that a group may write to.

The mode of its folder decides, as in a repository of `git init --shared`: group-writable, with the set-group-ID bit, so
that what is created in it gets its group. Every process that works in such a store lets the group write what it creates,
whatever its umask was, and whether or not the user's config has `store_group_writable`.
"""

import grp
import os
import pwd
import shlex
import stat
from pathlib import Path

from cogtune.errors import UserError

_GROUP = stat.S_IRWXG
_SHARED = stat.S_ISGID | stat.S_IWGRP


def is_shared(store: Path) -> bool:
    """Whether a group may write to the store."""
    try:
        mode = store.stat().st_mode
    except OSError:
        return False
    return stat.S_ISDIR(mode) and mode & _SHARED == _SHARED


def let_group_write(store: Path) -> None:
    """In a shared store: let the group write what this process and its children create from now on. It sets the umask, so
    it also holds for the results folder, whose files keep the group of that folder."""
    if is_shared(store):
        before = os.umask(0o077)  # there is no way to only read it
        os.umask(before & ~_GROUP)


def make_shared(store: Path) -> None:
    """Create the store so that the group of the folder above it may write, unless it exists. Raises UserError if it exists
    and is not shared: what is in it may belong to several people, and only they can change its mode."""
    if not store.exists():
        store.mkdir(parents=True)
        store.chmod(stat.S_IMODE(store.stat().st_mode) | stat.S_IRWXU | _GROUP | stat.S_ISGID)
    check_shared(store)
    let_group_write(store)


def check_shared(store: Path) -> None:
    """Raises UserError with the commands that share the store, if it exists and is not shared."""
    if store.exists() and not is_shared(store):
        raise UserError(
            f"store_group_writable: {store} exists, and is not writable for its group; let its owner ({owner(store)}) run: "
            f"{commands(store)}"
        )


def commands(store: Path) -> str:
    """The commands that share an existing store."""
    name = shlex.quote(str(store))
    return f"chgrp -R GROUP {name} && chmod -R g+rwX {name} && find {name} -type d -exec chmod g+s {{}} +"


def owner_and_mode(path: Path) -> str:
    """Owner, group and mode of ``path``, as `ls -l` shows them."""
    status = path.stat()
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return f"owner {owner(path)}, group {group}, mode {stat.filemode(status.st_mode)}"


def owner(path: Path) -> str:
    """The name of the user who owns ``path``, or the number of a user without a name here."""
    number = path.stat().st_uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
