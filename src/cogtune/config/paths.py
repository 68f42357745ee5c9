"""Check the files and folders that a config names."""

import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cogtune.config.check import FileKey
from cogtune.config.errors import ConfigError, Mark
from cogtune.config.hub_paths import PREFIX, LocalCopy, Pins, is_hub_path, local_copy, parse_hub_path, pinned_around
from cogtune.errors import UserError

_NO_LISTS = (
    ". Name the folder that holds the clips; their captions are in FOLDER/metadata.csv or FOLDER/metadata.jsonl "
    "(file_name, text), or in FOLDER/labels/NAME.txt for FOLDER/videos/NAME.mp4"
)
DATA, WEIGHTS = "data", "weights"
"""Kinds of files that a config may name before they exist, where only its cost is asked for."""
_DATA_KEYS = ("args.train_data.", "args.valid_data.")
_ON_THE_HUB = ("args.load", ".ckpt_path", ".model_dir")
_ALWAYS_NEEDED = ("args.input_file",)
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True)
class CheckedPaths:
    """``files``: dotted path -> absolute path of each. ``missing``: dotted path -> the path as written, of those that do not
    exist and need not. ``copies``: dotted path -> the local copy, of each `hf://…`. ``pinned``: absolute path -> sha256 of
    files in these copies, and in folders of published models. ``errors``: one for each of the others that does not exist, or
    is not what its key expects."""

    files: dict[str, str] = field(default_factory=dict[str, str])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    copies: dict[str, LocalCopy] = field(default_factory=dict[str, LocalCopy])
    pinned: dict[str, str] = field(default_factory=dict[str, str])
    errors: list[ConfigError] = field(default_factory=list[ConfigError])


def no_advice(path: str) -> str:
    """For files that no command makes."""
    return ""


def check_paths(
    named: Sequence[FileKey],
    must_exist: bool,
    may_miss: Collection[str] = (),
    advice: Callable[[str], str] = no_advice,
) -> CheckedPaths:
    """Check the paths that a config names, relative to the current directory. ``may_miss``: kinds of files (DATA, WEIGHTS)
    that need not exist although ``must_exist``. ``advice``: what to do about a missing path, as written, or ""."""
    checked, pins = CheckedPaths(), Pins()
    for key in named:
        if key.node.mark == Mark("default"):
            continue
        if is_hub_path(key.value):
            _check_hub_path(checked, key, pins, must_exist, may_miss)
            continue
        path = os.path.abspath(os.path.expanduser(key.value))
        checked.files[key.path] = path
        try:
            if kind_of(key.path) == WEIGHTS:
                checked.pinned.update(pinned_around(path, pins))
        except UserError as error:
            checked.errors.append(ConfigError(str(error), key=key.path, mark=key.node.mark))
        if must_exist and (problem := _problem(key, path, advice)):
            if kind_of(key.path) in may_miss and not Path(path).exists():
                checked.missing[key.path] = key.value
            else:
                checked.errors.append(ConfigError(problem, key=key.path, mark=key.node.mark))
    return checked


def _check_hub_path(
    checked: CheckedPaths, key: FileKey, pins: Pins, must_exist: bool, may_miss: Collection[str]
) -> None:
    """A path on the Hub is its local copy. Without one it is missing; an invalid one is always an error."""
    checked.files[key.path] = os.path.abspath(key.value)
    may_be_missing = False
    try:
        if not key.path.endswith(_ON_THE_HUB):
            raise UserError(f"{PREFIX} is for weights only (args.load, ckpt_path, model_dir); expected a local path")
        parse_hub_path(key.value)
        may_be_missing = not must_exist or kind_of(key.path) in may_miss
        checked.copies[key.path] = copy = local_copy(key.value, pins)
        checked.pinned.update(copy.sha256)
        checked.files[key.path] = os.path.abspath(copy.path)
    except UserError as error:
        if not may_be_missing:
            checked.errors.append(ConfigError(str(error), key=key.path, mark=key.node.mark))
        elif must_exist:
            checked.missing[key.path] = key.value


def kind_of(key: str) -> str:
    """DATA or WEIGHTS, of a file that may be missing; else ""."""
    if key in _ALWAYS_NEEDED:
        return ""
    return DATA if key.startswith(_DATA_KEYS) else WEIGHTS


def _problem(key: FileKey, path: str, advice: Callable[[str], str]) -> str | None:
    written = key.value
    if Path(path).is_file() and key.folder:
        lists = _NO_LISTS if key.path.startswith("args.") else ""
        return f"{written!r} is a file; expected a folder with {key.folder}{lists}"
    if Path(path).exists():
        return None
    placeholders = _PLACEHOLDER.findall(written)
    if placeholders:
        return f"{', '.join(placeholders)} is a placeholder: {written!r} is a template; replace it with the real path"
    resolved = "" if Path(written).is_absolute() else f" (resolved to {path})"
    what_to_do = advice(written)
    return f"no such file or folder: {written!r}{resolved}{'; ' if what_to_do else ''}{what_to_do}"
