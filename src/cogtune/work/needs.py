"""Which folders of a store the results folders that use it need: those of their receipts, and of the jobs of their runs."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogtune.errors import UserError
from cogtune.runtime.paths import is_key
from cogtune.runtime.typed_json import is_mapping
from cogtune.work.runs import FOLDER
from cogtune.work.slices import read_slice
from cogtune.work.stages import STAGES
from cogtune.work.volatile import earlier_volatile

_MARKER = re.compile(r"\.(?:published|compared)-[0-9a-f]{12}")


@dataclass(frozen=True)
class Needs:
    """``folders``: folder of the store -> the file that needs it. ``stages``: stage -> the receipt whose folder is unknown,
    because its slice is missing or damaged; then every folder of this stage may be needed. ``pages``: folder of own
    prompts' videos (`cogtune sample EXPERIMENT|WEIGHTS`) -> the rows that pages of these results folders show."""

    folders: dict[Path, Path] = field(default_factory=dict[Path, Path])
    stages: dict[str, Path] = field(default_factory=dict[str, Path])
    pages: dict[Path, frozenset[str]] = field(default_factory=dict[Path, frozenset[str]])

    def of(self, folder: Path) -> str:
        """Why a folder of the store is needed; "" if it is not."""
        if folder in self.folders:
            return f"needed by {self.folders[folder]}"
        if folder.parent.name in self.stages:
            return f"may be needed by {self.stages[folder.parent.name]}, whose slice is missing or damaged"
        return ""


@dataclass(frozen=True)
class Superseded:
    """Earlier configs of ``results`` count as not needed: runs that started before ``since`` (a time), of an experiment
    whose published report is of another run."""

    results: Path
    since: float


@dataclass(frozen=True)
class _Run:
    """A run file: its experiment, and job key -> (stage, key, item key) of each upstream job. ``prompts``: the key of the
    job with own prompts, if it is a run of one."""

    path: Path
    experiment: str
    jobs: dict[str, list[tuple[str, str, str]]]
    prompts: str | None = None


def needs_of(store: Path, results: Iterable[Path], superseded: Superseded | None = None) -> Needs:
    """What these results folders need. Raises UserError for a run file that is damaged, or a folder that cannot be read:
    what it needs is unknown then."""
    results = list(results)
    on_pages = _rows_on_pages(results)
    needs, folders = Needs(), dict(_folders_of_slices(store))
    dropped = frozenset[str]()
    for place in results:
        runs = list[_Run]()
        for run in map(_read_run, _listed(place / FOLDER)):
            if run.prompts is not None:
                videos = store / "sample" / run.prompts
                if not (rows := on_pages.get(videos.resolve())):
                    continue  # its pages were deleted
                needs.pages[videos] = rows
            runs.append(run)
        if superseded is not None and superseded.results == place:
            current = _current(place, runs, superseded.since)
            dropped = frozenset(key for run in runs for key in run.jobs) - current
        for path, wanted in ((run.path, run.jobs) for run in runs):
            for key, jobs in wanted.items():
                if superseded is not None and superseded.results == place and key in dropped:
                    continue
                for stage, job_key, items in jobs:
                    folders.setdefault(job_key, _folder(store, stage, job_key, items))
                    needs.folders.setdefault(folders[job_key], path)
                # Without a slice it is a report, or a job that another one of this file lists as its upstream.
                for folder in [folders[key]] if key in folders else [store / stage / key for stage in STAGES]:
                    needs.folders.setdefault(folder, path)
    for place in results:
        for path in _listed(place / ".receipts"):
            stage, _, key = path.stem.rpartition("-")
            if stage not in STAGES or not is_key(key):
                continue
            if superseded is not None and superseded.results == place and key in dropped:
                continue
            if key in folders or not STAGES[stage].items:
                needs.folders.setdefault(folders.get(key, store / stage / key), path)
            else:
                needs.stages.setdefault(stage, path)
    return needs


def _current(results: Path, runs: Sequence[_Run], since: float) -> set[str]:
    """The jobs of published reports, of runs that started after ``since``, and of experiments without a published report,
    with all jobs upstream of them."""
    markers = [path for folder in results.glob("*/") if not folder.is_symlink() for path in folder.glob(".*-*")]
    published = {path.name.rpartition("-")[2]: path.parent.name for path in markers if _MARKER.fullmatch(path.name)}
    upstream: dict[str, set[str]] = {}
    reached = set(published)
    for run in runs:
        for key, jobs in run.jobs.items():
            upstream.setdefault(key, set()).update(job for _, job, _ in jobs)
        if run.experiment not in published.values() or run.path.stat().st_mtime >= since:
            reached |= run.jobs.keys()
    while more := {job for key in reached for job in upstream.get(key, ())} - reached:
        reached |= more
    return reached


def _folders_of_slices(store: Path) -> Iterator[tuple[str, Path]]:
    """(job key, folder of its result) of all intact slices."""
    for path in _listed(store / "slices"):
        if is_key(path.stem):
            try:
                part = read_slice(path)
            except UserError:
                continue
            if part.stage in STAGES:
                yield part.key, _folder(store, part.stage, part.key, part.items_key)


def _folder(store: Path, stage: str, key: str, items: str) -> Path:
    return store / stage / (items if stage in STAGES and STAGES[stage].items else key)


def _read_run(path: Path) -> _Run:
    """A run file of any version. Raises UserError."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, str(error)) from None
    parts = content.get("parts") if is_mapping(content) else None
    if not is_mapping(parts) or not all(is_mapping(part) for part in parts.values()):
        raise _unreadable(path, "not a run file")
    jobs: dict[str, list[tuple[str, str, str]]] = {}
    for key, part in parts.items():
        upstream = earlier_volatile(part).jobs
        if len(upstream) != len(part.get("jobs") or {}):
            raise _unreadable(path, f"the jobs of {key} are damaged")
        jobs[key] = [(job.stage, job.key, job.items) for job in upstream.values()]
    prompts = next((key for key, part in parts.items() if part.get("prompts")), None)
    return _Run(path, str(content.get("experiment", "")), jobs, prompts)


def _rows_on_pages(results: Iterable[Path]) -> dict[Path, frozenset[str]]:
    """Folder of the store -> its rows that the pages of own prompts link to."""
    rows: dict[Path, set[str]] = {}
    for place in results:
        for link in place.glob("*/prompts/*/videos/*.mp4"):
            if link.is_symlink():
                target = link.parent.resolve() / os.readlink(link)
                rows.setdefault(target.parent.parent.resolve(), set()).add(target.stem)
    return {folder: frozenset(names) for folder, names in rows.items()}


def _unreadable(path: Path, why: str) -> UserError:
    return UserError(
        f"{path}: {why}; what this run needs is unknown, so nothing can be removed. Delete the file if its run is over: "
        f"finished results have receipts"
    )


def _listed(folder: Path) -> list[Path]:
    """The JSON files of a folder, which may be missing. Raises UserError if it cannot be read."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(
            f"{folder}: {error.strerror}; what it needs is unknown, so nothing can be removed. Run this as its owner, or "
            f"ask for read permission"
        ) from None
    return [folder / name for name in names if name.endswith(".json") and not name.startswith(".")]
