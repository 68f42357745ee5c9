"""Puts a report where people look: results/<experiment>/ shows what the config means now, and nothing else."""

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cogtune.errors import UserError
from cogtune.runtime.atomic import write_text

MARKER = ".published-"


def publish(
    folder: Path,
    key: str,
    texts: Mapping[str, str],
    links: Mapping[str, Path],
    marker: str = MARKER,
    stage: str = "report",
) -> Path:
    """Make ``folder`` hold exactly this report; returns the marker, which is written last.

    All markers go first, so a kill on the way leaves none and the report is made again. ``texts``: file name ->
    content. ``links``: name -> folder in the store; a link is relative, so that results and store can move together.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{marker}*"):
        old.unlink()
    for name, target in links.items():
        _link(folder / name, target)
    for name, text in texts.items():
        write_text(folder / name, text)
    published = folder / f"{marker}{key}"
    write_text(published, json.dumps({"stage": stage, "key": key}) + "\n")
    return published


def to_json(value: Any) -> str:
    """JSON as people read it: sorted, indented, one newline at the end. Equal values give equal bytes."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _link(path: Path, target: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        raise UserError(f"{path}: a real folder stands where the report links into the store; move it away")
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    temporary.symlink_to(os.path.relpath(target, path.parent), target_is_directory=True)
    os.replace(temporary, path)
