"""The argument of a stage: its slice, its folders, and a progress bar."""

import shlex
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from cogtune.config.plugins import allow_plugins
from cogtune.data.listing import ClipRow, read_manifest
from cogtune.data.store import ShardReader
from cogtune.errors import UserError
from cogtune.runtime.digest import data_digests
from cogtune.runtime.paths import inside, key_folder, quoted
from cogtune.runtime.progress import Progress, progress
from cogtune.work.content_hashes import Source, proven
from cogtune.work.parts import Part
from cogtune.work.slices import Slice, read_slice
from cogtune.work.stage_input import read_input
from cogtune.work.stages import STAGES, row_of
from cogtune.work.volatile import UpstreamJob

Input = TypeVar("Input", covariant=True)
Other = TypeVar("Other")


@dataclass(frozen=True)
class Job(Generic[Input]):
    """One run of one stage. It gives access to everything that the stage may read, and to nothing else."""

    slice: Slice
    store: Path
    log_path: Path | None = None
    plain: bool = True
    part: Part | None = None
    """The part of its rows that this run makes; None: all."""
    waits: list[float] = field(default_factory=list[float], compare=False, repr=False)
    """Seconds that it waited for rows of other jobs, which are not its own cost."""

    def __post_init__(self) -> None:
        allow_plugins(self.slice.volatile.plugins)

    @cached_property
    def input(self) -> Input:
        """The stage's declared input (work/inputs.py), with real paths. Raises UserError if the slice lacks a required
        value."""
        return read_input(row_of(self.slice.identity).input, self.slice.config())

    @property
    def key(self) -> str:
        return self.slice.key

    @property
    def items_key(self) -> str:
        return self.slice.items_key

    @property
    def ranks(self) -> int:
        """Number of training processes. Depends on the machine, so it is not part of the identity. A stage with a single
        process uses the threads of all ranks."""
        return self.slice.volatile.machine.ranks

    @property
    def upstream(self) -> dict[str, str]:
        """Job keys by stage name. ``load`` is the train job whose result this job starts from."""
        return {name: job.key for name, job in self.slice.volatile.jobs.items()}

    @property
    def folder(self) -> Path:
        """The folder that this job writes to."""
        stage = self.slice.stage
        return self.items_dir() if stage in STAGES and STAGES[stage].items else self.job_dir()

    @property
    def lock_path(self) -> Path:
        """The lock of `folder`."""
        return self.store / "locks" / f"{self.slice.stage}-{self.folder.name}.lock"

    @property
    def one_device(self) -> int | None:
        """The number of the device of a part, which uses one: parts on one machine use its devices in turn."""
        return self.part.number - 1 if self.part else None

    def note_wait(self, seconds: float) -> float:
        """Add to `waits`; returns ``seconds``."""
        self.waits.append(seconds)
        return seconds

    def job_dir(self, stage: str | None = None) -> Path:
        """The result folder of this job, or of its upstream job ``stage``."""
        if stage is None:
            return self.store / self.slice.stage / self.key
        job = self._upstream(stage)
        return key_folder(self._stage_folder(job.stage), job.key, self._named_by)

    def items_dir(self, stage: str | None = None) -> Path:
        """The folder of rows of this job, or of its upstream job ``stage``."""
        if stage is None:
            return self.store / self.slice.stage / self.items_key
        job = self._upstream(stage)
        return key_folder(self._stage_folder(job.stage), job.items, self._named_by)

    def rows(self, stage: str | None = None) -> ShardReader:
        """The rows of this job, or of its upstream job ``stage``. Reading a missing row raises UserError with the
        command that computes it."""
        if stage is None:
            return ShardReader(self.folder)
        job = self._upstream(stage)
        folder = self.items_dir(stage) if STAGES[job.stage].items else self.job_dir(stage)
        slice_file, run = self.store / "slices" / f"{job.key}.json", self._run_of(job)
        command = shlex.join(["cogtune", job.stage, "--slice", str(slice_file), "--run", str(run)])
        return ShardReader(folder, f"run `{command}` to compute missing rows; then run this command again")

    def upstream_job(self, stage: str, kind: type[Other] = object) -> "Job[Other]":
        """The upstream job ``stage``, with the run file of this run or of the run that it starts from. Raises UserError
        unless its input is a ``kind``."""
        job = self._upstream(stage)
        run = self._run_of(job)
        path = key_folder(self.store / "slices", job.key, self._named_by).with_suffix(".json")
        upstream: Job[Any] = Job(read_slice(path, run), self.store, self.log_path, self.plain)
        if not issubclass(row_of(upstream.slice.identity).input, kind):
            raise UserError(f"{self._named_by}: {job.key} is not a {stage} job; run snakemake again")
        return upstream

    def _run_of(self, job: UpstreamJob) -> Path:
        """The run file of an upstream job."""
        return inside(self.run_file.parent, job.run, self.run_file) if job.run is not None else self.run_file

    @property
    def run_file(self) -> Path:
        """The file with this run's values that are not part of the identity."""
        if self.slice.run is None:
            raise UserError(f"stage {self.slice.stage!r}: this slice was cut for a plan and has no run file")
        return self.slice.run

    @property
    def experiment(self) -> str:
        """The experiment of the run file, `<experiment>-<digest>.json`."""
        return self.run_file.stem.rpartition("-")[0]

    @property
    def results(self) -> Path:
        """The results folder of this run, which contains the run file."""
        return self.run_file.parent.parent

    def manifest(self) -> list[ClipRow]:
        """The accepted (clip, caption) pairs. Raises UserError if they differ from the data set in the slice."""
        rows = read_manifest(self.job_dir("scan") / "manifest.jsonl")
        part = STAGES[self.slice.stage].data
        digests = data_digests((row.clip, row.caption, row.split) for row in rows) if part else {}
        if part and part in digests and digests[part] != self.slice.identity["data"]:
            raise UserError(
                f"{self.job_dir('scan')}: the data set changed since this job was planned; run snakemake again"
            )
        return rows

    def sources(self, *sections: str) -> list[Source]:
        """The files of this job's key below ``sections`` of the config, and its plugins."""
        return [
            Source(row[0], row[1], row[2], key)
            for key, rows in self.slice.volatile.sources.items()
            if any(f"{key}.".startswith(f"{section}.") for section in (*sections, "plugins"))
            for row in rows
        ]

    def proven(self, *sections: str) -> AbstractContextManager[Callable[[], None]]:
        """A context in which the files of these sections are checked against the key; see `content_hashes.proven`."""
        return proven(self.sources(*sections))

    def progress(self, total: int, label: str, unit: str = "items") -> AbstractContextManager[Progress]:
        """A progress bar with rate and ETA."""
        return progress(total, f"{label} {self.part}" if self.part else label, unit, plain=self.plain)

    @property
    def _named_by(self) -> Path | str:
        """The file that names the upstream jobs. It is not part of any key, so the names are checked before use."""
        return self.slice.run or f"{self.slice.stage} {self.key}"

    def _stage_folder(self, stage: str) -> Path:
        if stage not in STAGES:
            raise UserError(f"{self._named_by}: there is no stage {quoted(stage)}; run snakemake again")
        return self.store / stage

    def _upstream(self, stage: str) -> UpstreamJob:
        try:
            return self.slice.volatile.jobs[stage]
        except KeyError:
            raise UserError(f"stage {self.slice.stage!r} has no upstream {stage!r}; see work/stages.py") from None


def missing_ids(ids: Iterable[str], present: set[str]) -> list[str]:
    """The ``ids`` that are not ``present``, each once, in their order."""
    return [item for item in dict.fromkeys(ids) if item not in present]
