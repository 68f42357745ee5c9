"""Puts a report where people look: results/<experiment>/ shows what the config means now, and nothing else."""

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cogtune.errors import UserError
from cogtune.runtime.atomic import write_text

MARKER, PAGE = ".published-", ".page-"


def publish(
    folder: Path,
    key: str,
    texts: Mapping[str, str],
    links: Mapping[str, Path],
    marker: str = MARKER,
    stage: str = "report",
    page: str = PAGE,
) -> Path:
    """Make ``folder`` hold exactly this report; returns the marker, which is written last.

    All markers go first, so a kill on the way leaves none and the report is made again. ``texts``: file name ->
    content. ``links``: name -> folder in the store; a link is relative, so that results and store can move together.
    ``page``: report.html gets a second name, `<page><key>.html`, which Snakemake may own: it deletes a rule's outputs
    when its job starts or fails, and `snakemake --report` shows them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob(f"{marker}*"), *folder.glob(f"{page}*")):
        old.unlink()
    for name, target in links.items():
        _link(folder / name, target)
    for name, text in texts.items():
        write_text(folder / name, text)
    if "report.html" in texts:
        _name_again(folder / "report.html", folder / f"{page}{key}.html")
    published = folder / f"{marker}{key}"
    write_text(published, json.dumps({"stage": stage, "key": key}) + "\n")
    return published


def to_json(value: Any) -> str:
    """JSON as people read it: sorted, indented, one newline at the end. Equal values give equal bytes."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _name_again(path: Path, second: Path) -> None:
    """A hard link, so that a page full of videos lies on the disk once; a copy where there are none."""
    try:
        second.hardlink_to(path)
    except OSError:
        write_text(second, path.read_text(encoding="utf-8"))


def _link(path: Path, target: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        raise UserError(f"{path}: a real folder stands where the report links into the store; move it away")
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    temporary.symlink_to(os.path.relpath(target, path.parent), target_is_directory=True)
    os.replace(temporary, path)
