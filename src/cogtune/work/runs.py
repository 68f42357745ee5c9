"""Runs: what the jobs of one experiment are told beside their identity: paths, ranks, volatile values, upstream jobs.

It belongs to whoever started the run, so it lies in that run's results folder and never in the store, which others share:

``results/.runs/<experiment>-<digest>.json``   ``parts``: job key -> the volatile part of that job's slice.

The digest is over the content and the file is written once, so no later run of the same folder changes what the jobs of
an earlier one are told.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cogtune.errors import UserError
from cogtune.runtime.digest import has_key, key_of

FORMAT = "cogtune-run-1"
FOLDER = ".runs"


def run_path(results: Path, experiment: str, parts: Mapping[str, Mapping[str, Any]]) -> Path:
    """Where `write_run` writes, absolute."""
    return results.resolve() / FOLDER / f"{experiment}-{key_of(_content(experiment, parts))}.json"


def write_run(results: Path, experiment: str, parts: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the file that tells jobs by key what they need, unless it is there and whole; returns its path, absolute."""
    from cogtune.runtime.atomic import write_json

    content, path = _content(experiment, parts), run_path(results, experiment, parts)
    if not has_key(path, key_of(content)):
        write_json(path, content)
    return path


def _content(experiment: str, parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {"format": FORMAT, "experiment": experiment, "parts": dict(parts)}


def read_part(run: Path, key: str) -> dict[str, Any]:
    """What ``run`` tells the job ``key``. Raises UserError for a file that is damaged or knows no such job."""
    try:
        content = json.loads(run.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{run}: no readable run ({error}); run snakemake again, it writes runs") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise UserError(f"{run}: format {found!r}, this version reads {FORMAT!r}; run snakemake again")
    if not run.stem.endswith(key_of(content)):
        raise UserError(f"{run}: its content does not match its name; delete it and run snakemake again")
    if key not in content["parts"]:
        raise UserError(f"{run}: knows no job {key}; run snakemake again, or name the run that this slice was cut for")
    return content["parts"][key]


def known_runs(results: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(path, job key -> volatile part) of every run that the results folder knows; files that cannot be read are passed
    over."""
    for path in sorted((results / FOLDER).glob("*.json")):
        try:
            parts = json.loads(path.read_text(encoding="utf-8"))["parts"]
        except (OSError, ValueError, RecursionError, KeyError, TypeError):
            continue
        if isinstance(parts, dict):
            yield path.resolve(), parts


def known_parts(results: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(job key, volatile part) of every run that the results folder knows."""
    for _, parts in known_runs(results):
        yield from parts.items()
