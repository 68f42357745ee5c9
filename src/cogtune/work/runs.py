"""Run files: the input of an experiment's jobs besides their identity: paths, ranks, volatile values, upstream jobs.

They belong to the user who starts the run, so they are in the results folder and not in the shared store:

``results/.runs/<experiment>-<digest>.json``   ``parts``: job key -> the volatile part of that job's slice.

The digest covers the content and the file is written once, so a later run never changes the input of an earlier run's
jobs.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cogtune.errors import UserError
from cogtune.runtime.digest import has_key, key_of
from cogtune.runtime.typed_json import from_json, is_mapping
from cogtune.work.volatile import Volatile, earlier_volatile

FORMAT = "cogtune-run-1"
FOLDER = ".runs"


def run_path(results: Path, experiment: str, parts: Mapping[str, Volatile]) -> Path:
    """The absolute path of the file of `write_run`."""
    return results.resolve() / FOLDER / f"{experiment}-{key_of(_content(experiment, parts))}.json"


def write_run(results: Path, experiment: str, parts: Mapping[str, Volatile]) -> Path:
    """Write the run file, unless it exists and is intact; return its absolute path. Its time is that of the last start."""
    from cogtune.runtime.atomic import write_json

    content, path = _content(experiment, parts), run_path(results, experiment, parts)
    if not has_key(path, key_of(content)):
        write_json(path, content)
    with suppress(OSError):
        os.utime(path)
    return path


def _content(experiment: str, parts: Mapping[str, Volatile]) -> dict[str, Any]:
    jobs = {key: part.to_json() for key, part in parts.items()}
    return {"format": FORMAT, "experiment": experiment, "parts": jobs}


def read_part(run: Path, key: str) -> Volatile:
    """The volatile part of job ``key`` in ``run``. Raises UserError for a damaged file or an unknown job."""
    try:
        content: Any = json.loads(run.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{run}: invalid run file ({error}); run snakemake again, which rewrites it") from None
    file_format = content.get("format") if is_mapping(content) else None
    if file_format != FORMAT:
        raise UserError(f"{run}: format {file_format!r}; expected {FORMAT!r}; run snakemake again")
    if not run.stem.endswith(key_of(content)):
        raise UserError(f"{run}: its content does not match its name; delete it and run snakemake again")
    if key not in content["parts"]:
        raise UserError(f"{run}: unknown job {key}; run snakemake again, or give the run file of this slice")
    try:
        return from_json(Volatile, content["parts"][key])
    except ValueError as error:
        raise UserError(f"{run}: job {key}: {error}; run snakemake again") from None


def known_runs(results: Path) -> Iterator[tuple[Path, dict[str, Volatile]]]:
    """(path, job key -> volatile part) of every run that the results folder knows; files that cannot be read are passed
    over."""
    for path in sorted((results / FOLDER).glob("*.json")):
        try:
            parts: Any = json.loads(path.read_text(encoding="utf-8"))["parts"]
        except (OSError, ValueError, RecursionError, KeyError, TypeError):
            continue
        if is_mapping(parts):
            yield path.resolve(), {key: earlier_volatile(part) for key, part in parts.items()}


def known_parts(results: Path) -> Iterator[tuple[str, Volatile]]:
    """(job key, volatile part) of all run files in the results folder."""
    for _, parts in known_runs(results):
        yield from parts.items()
