"""`args.valid_data`: a list of folders, or a mapping from names of validation sets to lists of folders."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from cogtune.config.key_types import Mismatch, short_repr

ValidData = Sequence[str] | Mapping[str, Sequence[str]] | None

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}").fullmatch


def check_set_name(name: str) -> None:
    """Raise Mismatch unless ``name`` may name a validation set: it becomes part of dotted paths and of plot labels."""
    if not _NAME(name):
        raise Mismatch(
            f"{short_repr(name)} cannot name a validation set; expected a letter, then up to 39 letters, digits, - or _"
        )


def folders(valid_data: ValidData) -> list[str]:
    """All folders, in order."""
    if isinstance(valid_data, Mapping):
        return [folder for listed in valid_data.values() for folder in listed]
    return list(valid_data or [])


def by_set(valid_data: ValidData) -> dict[str, list[str]]:
    """Folders by name of the set. In a list each folder is a set, named by the end of its path: as many parts as make the
    names distinct."""
    if isinstance(valid_data, Mapping):
        return {name: list(listed) for name, listed in valid_data.items()}
    listed = list(dict.fromkeys(valid_data or []))
    parts = {folder: [part for part in Path(folder).parts if part != "/"] or [folder] for folder in listed}
    count = dict.fromkeys(listed, 1)
    while True:
        names = {folder: "/".join(parts[folder][-count[folder] :]) for folder in listed}
        shared = {name for name, uses in Counter(names.values()).items() if uses > 1}
        longer = [folder for folder in listed if names[folder] in shared and count[folder] < len(parts[folder])]
        if not longer:
            return {names[folder]: [folder] for folder in listed}
        for folder in longer:
            count[folder] += 1
