"""Check the files and folders that a config names."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from cogtune.config.check import FileKey
from cogtune.config.errors import ConfigError, Mark

_NO_LISTS = (
    ". Name the folder that holds the clips; their captions are in FOLDER/metadata.csv or FOLDER/metadata.jsonl "
    "(file_name, text), or in FOLDER/labels/NAME.txt for FOLDER/videos/NAME.mp4"
)
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")


def check_paths(named: Sequence[FileKey], must_exist: bool) -> tuple[dict[str, str], list[ConfigError]]:
    """Dotted path -> absolute path of each, and an error for each that does not exist. Relative to the current directory."""
    files, errors = {}, []
    for key in named:
        if key.node.mark == Mark("default"):
            continue
        files[key.path] = os.path.abspath(os.path.expanduser(key.value))
        if must_exist and (problem := _problem(key, files[key.path])):
            errors.append(ConfigError(problem, key=key.path, mark=key.node.mark))
    return files, errors


def _problem(key: FileKey, path: str) -> str | None:
    written = key.value
    if Path(path).is_file() and key.folder:
        lists = _NO_LISTS if key.path.startswith("args.") else ""
        return f"{written!r} is a file; expected a folder with {key.folder}{lists}"
    if Path(path).exists():
        return None
    placeholders = _PLACEHOLDER.findall(written)
    if placeholders:
        return f"{', '.join(placeholders)} is a placeholder: {written!r} is a template; replace it with the real path"
    if not Path(written).is_absolute():
        return f"no such file or folder: {written!r} (resolved to {path})"
    return f"no such file or folder: {written!r}"
