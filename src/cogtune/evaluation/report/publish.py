"""Publishes a report in results/<experiment>/, so that the folder always matches the current config."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cogtune.errors import UserError
from cogtune.runtime.atomic import replace_link, write_text
from cogtune.runtime.paths import inside

MARKER, PAGE = ".published-", ".page-"


def publish(
    folder: Path,
    key: str,
    texts: Mapping[str, str],
    links: Mapping[str, Path],
    marker: str = MARKER,
    stage: str = "report",
    page: str = PAGE,
    files: Mapping[str, Mapping[str, Path]] | None = None,
) -> Path:
    """Write the report to ``folder`` and return its marker file, which is written last.

    Old markers are deleted first, so after a kill there is none and the report is written again. ``texts``: file name ->
    content. ``links``: name -> folder in the store; links are relative, so that results and store can move together.
    ``files``: folder -> name -> file in the store: a folder of links with other names than the store's.
    ``page``: report.html gets a second name, `<page><key>.html`, as the output for Snakemake, which shows it in
    `snakemake --report`, and deletes a rule's outputs when its job starts or fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob(f"{marker}*"), *folder.glob(f"{page}*")):
        old.unlink()
    for name, target in links.items():
        _link(folder / name, target)
    for name, targets in (files or {}).items():
        link_files(folder / name, targets)
    for name, text in texts.items():
        write_text(folder / name, text)
    if "report.html" in texts:
        _link_or_copy(folder / "report.html", folder / f"{page}{key}.html")
    published = folder / f"{marker}{key}"
    write_text(published, json.dumps({"stage": stage, "key": key}) + "\n")
    return published


def to_json(value: Any) -> str:
    """JSON with sorted keys, indentation and a final newline. Equal values give equal bytes."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _link_or_copy(path: Path, second: Path) -> None:
    """Create a hard link, because pages with videos are large; a copy if the file system has no hard links."""
    try:
        second.hardlink_to(path)
    except OSError:
        write_text(second, path.read_text(encoding="utf-8"))


def link_files(folder: Path, targets: Mapping[str, Path]) -> None:
    """Make ``folder`` hold a link for each of ``targets``, and no other link. Files that are no links stay."""
    if folder.is_symlink():  # earlier versions linked to the folder of the store
        folder.unlink()
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        if old.is_symlink() and old.name not in targets:
            old.unlink()
    for name, target in targets.items():
        _link(inside(folder, name, folder), target)


def _link(path: Path, target: Path) -> None:
    if path.exists() and not path.is_symlink():
        kind = "folder" if path.is_dir() else "file"
        raise UserError(f"{path}: is a {kind}, but the report needs this name for a link; move or rename the {kind}")
    replace_link(path, target)
