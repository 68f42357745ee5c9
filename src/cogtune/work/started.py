"""What the main process tells its jobs on other machines: where store and results are, and which run each job belongs to.

A job reads this instead of the experiments. So a config that is edited while jobs wait in a queue changes nothing for
them, and a job starts without merging and checking configs or listing data. The file is in Snakemake's own folder of the
working directory, which the main process and its jobs share.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogtune.errors import UserError
from cogtune.runtime.atomic import write_json
from cogtune.runtime.typed_json import is_mapping
from cogtune.work.slices import Slice, read_slice, upstream_receipts
from cogtune.work.workspace import Workspace

STARTED = Path(".snakemake/cogtune-jobs.json")
_AGAIN = "run snakemake again in this directory"


@dataclass(frozen=True)
class StartedJobs:
    """``runs``: the absolute path of the run file of each job, by key."""

    store: Path
    results: Path
    runs: Mapping[str, Path]

    def job(self, key: str) -> Slice:
        """The slice of a job with its run file. Raises UserError if the main process started no such job."""
        if key not in self.runs:
            raise UserError(f"{STARTED}: unknown job {key}; {_AGAIN}")
        return read_slice(self.store / "slices" / f"{key}.json", self.runs[key])

    def upstream(self, part: Slice) -> list[Path]:
        """The receipts that a job depends on."""
        return upstream_receipts(self.results, part)


def save_started(workspace: Workspace, path: Path = STARTED) -> None:
    """Write what jobs need, if the file does not say it yet. Runs of an earlier main process stay: its jobs may still wait
    in a queue."""
    before = _read(path)
    content: dict[str, Any] = {"store": str(workspace.store), "results": str(workspace.results)}
    earlier: dict[str, str] = before["runs"] if before and before | content == before else {}
    content["runs"] = earlier | {key: str(run) for key, run in workspace.runs().items()}
    if before != content:
        write_json(path, content)


def load_started(path: Path = STARTED) -> StartedJobs:
    """What `save_started` wrote. Raises UserError if the file is missing or damaged."""
    content = _read(path)
    if content is None:
        raise UserError(f"{path}: missing or damaged, so this job does not know its run; {_AGAIN}")
    runs = {key: Path(run) for key, run in content["runs"].items()}
    return StartedJobs(Path(content["store"]), Path(content["results"]), runs)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not is_mapping(content) or set(content) != {"store", "results", "runs"} or not is_mapping(content["runs"]):
        return None
    return dict(content)
