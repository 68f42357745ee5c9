"""What a stage is given: its slice, its folders, and a progress bar."""

import shlex
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from cogtune.config.plugins import allow_plugins
from cogtune.data.listing import ClipRow, read_manifest
from cogtune.data.store import ShardReader
from cogtune.errors import UserError
from cogtune.runtime.digest import data_digests
from cogtune.runtime.paths import inside, key_folder, shown
from cogtune.runtime.progress import Progress, progress
from cogtune.work.content_hashes import Source, proven
from cogtune.work.slices import Slice, read_slice
from cogtune.work.stage_input import read_input
from cogtune.work.stages import STAGES, row_of

Input = TypeVar("Input", covariant=True)
Other = TypeVar("Other")


@dataclass(frozen=True)
class Job(Generic[Input]):
    """One run of one stage. Everything that the stage may read is reachable from here, and nothing else is."""

    slice: Slice
    store: Path
    log_path: Path | None = None
    plain: bool = True

    def __post_init__(self) -> None:
        allow_plugins(self.slice.volatile.get("plugins", {}))

    @cached_property
    def input(self) -> Input:
        """What the stage declares to read (work/inputs.py), with real paths. Raises UserError for a value that must be
        set and is not in the slice."""
        return read_input(row_of(self.slice.identity).input, self.slice.config())

    @property
    def key(self) -> str:
        return self.slice.key

    @property
    def items_key(self) -> str:
        return self.slice.items_key

    @property
    def ranks(self) -> int:
        """Processes that train together; a machine fact, never identity. A stage of one process takes the threads of all
        of them."""
        return self.slice.volatile.get("machine", {}).get("ranks", 1)

    @property
    def upstream(self) -> dict[str, str]:
        """Job keys by stage name, and ``load``: the train job whose result this one starts from."""
        return {name: job["key"] for name, job in self.slice.volatile.get("jobs", {}).items()}

    def job_dir(self, stage: str | None = None) -> Path:
        """The folder of this stage's result, or of the upstream result named ``stage``."""
        if stage is None:
            return self.store / self.slice.stage / self.key
        job = self._upstream(stage)
        return key_folder(self._stage_folder(job["stage"]), job["key"], self._named_by)

    def items_dir(self, stage: str | None = None) -> Path:
        """The folder of rows of this stage, or of the upstream stage named ``stage``."""
        if stage is None:
            return self.store / self.slice.stage / self.items_key
        job = self._upstream(stage)
        return key_folder(self._stage_folder(job["stage"]), job["items"], self._named_by)

    def rows(self, stage: str | None = None) -> ShardReader:
        """The rows of this stage, or of the upstream stage named ``stage``. What asks for one that is not there gets a
        UserError with the command that makes it."""
        if stage is None:
            return ShardReader(self.items_dir() if STAGES[self.slice.stage].items else self.job_dir())
        job = self._upstream(stage)
        folder = self.items_dir(stage) if STAGES[job["stage"]].items else self.job_dir(stage)
        slice_file, run = self.store / "slices" / f"{job['key']}.json", self._run_of(job)
        command = shlex.join(["cogtune", job["stage"], "--slice", str(slice_file), "--run", str(run)])
        return ShardReader(folder, f"`{command}` makes what is missing there; then run this again")

    def upstream_job(self, stage: str, kind: type[Other] = object) -> "Job[Other]":
        """The upstream job itself, as this run or the one that it starts from tells it: its input, which must be a
        ``kind``, and its own upstream. Raises UserError for the job of another stage."""
        job = self._upstream(stage)
        run = self._run_of(job)
        path = key_folder(self.store / "slices", job["key"], self._named_by).with_suffix(".json")
        found: Job[Any] = Job(read_slice(path, run), self.store, self.log_path, self.plain)
        if not issubclass(row_of(found.slice.identity).input, kind):
            raise UserError(f"{self._named_by}: {job['key']} is not a job of {stage}; run snakemake again")
        return found

    def _run_of(self, job: Mapping[str, str]) -> Path:
        """The file that tells an upstream job what belongs to the run."""
        return inside(self.run_file.parent, job["run"], self.run_file) if "run" in job else self.run_file

    @property
    def run_file(self) -> Path:
        """The file that holds what this run tells its jobs."""
        if self.slice.run is None:
            raise UserError(f"stage {self.slice.stage!r} was cut for a plan: no run tells it where to work")
        return self.slice.run

    @property
    def results(self) -> Path:
        """The results folder of this run: it holds the run's file."""
        return self.run_file.parent.parent

    def manifest(self) -> list[ClipRow]:
        """The accepted (clip, caption) pairs, proved to be the data set that the slice was cut for."""
        rows = read_manifest(self.job_dir("scan") / "manifest.jsonl")
        named = STAGES[self.slice.stage].data
        if named and named in (found := data_digests((row.clip, row.caption, row.split) for row in rows)):
            expected = self.slice.identity["data"]
            if found[named] != expected:
                raise UserError(
                    f"{self.job_dir('scan')}: the data set changed since this job was planned; run snakemake again"
                )
        return rows

    def sources(self, *sections: str) -> list[Source]:
        """The files of this job's key below ``sections`` of the config, and its plugins."""
        return [
            Source(row[0], row[1], row[2], key)
            for key, rows in self.slice.volatile.get("sources", {}).items()
            if any(f"{key}.".startswith(f"{section}.") for section in (*sections, "plugins"))
            for row in rows
        ]

    def proven(self, *sections: str) -> AbstractContextManager[Callable[[], None]]:
        """A block in which the files that these sections name are those of the key; see `files.proven`."""
        return proven(self.sources(*sections))

    def progress(self, total: int, label: str, unit: str = "items") -> AbstractContextManager[Progress]:
        """A bar with rate and ETA."""
        return progress(total, label, unit, plain=self.plain)

    @property
    def _named_by(self) -> Path | str:
        """The file that names the upstream jobs. Its content is in no key, so what it names is checked."""
        return self.slice.run or f"{self.slice.stage} {self.key}"

    def _stage_folder(self, stage: str) -> Path:
        if stage not in STAGES:
            raise UserError(
                f"{self._named_by}: names the stage {shown(stage)}, which there is not; run snakemake again"
            )
        return self.store / stage

    def _upstream(self, stage: str) -> dict[str, str]:
        try:
            return self.slice.volatile["jobs"][stage]
        except KeyError:
            raise UserError(f"stage {self.slice.stage!r} has no upstream {stage!r}; see work/stages.py") from None


def missing(wanted: Iterable[str], present: set[str]) -> list[str]:
    """What is still to be made, each once, in the order asked for."""
    return [item for item in dict.fromkeys(wanted) if item not in present]
