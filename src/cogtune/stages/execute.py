"""Runs one job: lock, log, work, record, receipt, in this order."""

import importlib
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogtune.config.plugins import load_used
from cogtune.errors import UserError
from cogtune.runtime import slurm
from cogtune.runtime.atomic import write_json
from cogtune.runtime.failures import explained, is_not_writable
from cogtune.runtime.gpu_usage import GpuUsage, watched_gpus
from cogtune.runtime.locks import hold_lock
from cogtune.runtime.log import last_lines, log_to_file
from cogtune.runtime.machines import device_names
from cogtune.runtime.shared import let_group_write
from cogtune.runtime.stopping import Stopped
from cogtune.runtime.typed_json import to_json
from cogtune.stages.job import Job
from cogtune.stages.run_counts import RunCounts
from cogtune.work.parts import part_receipts
from cogtune.work.records import Record, read_record

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Peaks:
    """What a run used; for the fields see `Record`."""

    peak_memory_mib: float
    peak_gpu_mib: float | None = None
    gpu_busy: float | None = None


def execute(job: Job[Any], receipt: Path | None) -> RunCounts:
    """Run ``job`` and write its receipt. Two jobs with one key never overlap: the second waits, then finds all rows
    cached.

    Parts of a job run side by side; each reserves the rows that it makes. The receipt holds stage, key, the part if the
    job is one, the stage's counts, seconds without the time that it waited for other jobs, peak memory, and how busy
    the GPUs were.
    """
    let_group_write(job.store)
    name = job.slice.stage
    run: Callable[[Job[Any]], RunCounts] = importlib.import_module(f"cogtune.stages.{name}").run
    with nullcontext(True) if job.part else _lock(job.lock_path, job.folder) as locked:
        started = time.monotonic()
        with job.proven():
            load_used(job.slice.config())
        with watched_gpus() as gpu_usage:
            counts = _counts(run, job)
        seconds = time.monotonic() - started - sum(job.waits)
        peaks = _peaks(gpu_usage())
        if locked and (counts.made or not job.part):
            _record(job, counts, seconds, peaks)
    if receipt is not None:
        part = {"part": str(job.part)} if job.part else {}
        measured = {**part, **counts.to_json(), "seconds": round(seconds, 3), **to_json(peaks)}
        write_json(receipt, {"stage": name, "key": job.key, **measured})
        for path in [] if job.part else part_receipts(receipt):
            path.unlink(missing_ok=True)  # if rows are lost later, nothing says that the parts are done
    cached = "" if counts.made else "cached: "
    label = f"{name} {job.part}" if job.part else name
    _log.info("[%s] %s%s in %.1f s", label, cached, _summary(counts), seconds)
    return counts


def _counts(run: Callable[[Job[Any]], RunCounts], job: Job[Any]) -> RunCounts:
    """The stage's counts. Raises UserError if a plugin exits: otherwise its exit code, even 0, would be the job's."""
    try:
        return run(job)
    except SystemExit as error:
        if isinstance(error, Stopped):  # training was stopped by a signal; it resumes from its checkpoint
            raise
        caller = ", ".join(job.slice.volatile.plugins) or "a library"
        raise UserError(
            f"stage {job.slice.stage!r} did not finish: {caller} called sys.exit({error.code!r}); a plugin must raise an "
            f"error instead"
        ) from error


@contextmanager
def _lock(path: Path, folder: Path) -> Iterator[bool]:
    """Hold the lock of ``folder``. Yields False if neither lock nor folder is writable: complete results need no lock.

    A Slurm job does not wait long for a live owner, which would hold GPUs idle: HeldError.
    If the folder is writable and the lock is not (permissions of a shared store may differ between folders), the error
    is raised: two writers would not see each other.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(path, patience=slurm.patience()))
        except OSError as error:
            nearest = next(place for place in (folder, *folder.parents) if place.exists())
            if not is_not_writable(error) or os.access(nearest, os.W_OK):
                raise
            yield False
        else:
            yield True


def execute_logged(job: Job[Any], receipt: Path | None, command: str) -> RunCounts:
    """Like `execute`, and copy messages to ``job.log_path``. On failure, print the ``command`` that repeats the job."""
    if job.log_path is None:
        return execute(job, receipt)
    try:
        with log_to_file(job.log_path), explained():
            _log.info("[%s] key %s: %s", job.slice.stage, job.key, command)
            return execute(job, receipt)
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt | SystemExit | UserError):
            tail = "\n".join(last_lines(job.log_path, 15))
            _log.error("\nstage %r failed; last lines of %s:\n%s", job.slice.stage, job.log_path, tail)
        if not isinstance(error, KeyboardInterrupt | Stopped):  # nothing failed: the user's own command resumes it
            _log.error("\nto repeat this job by hand:\n  %s", command)
        raise


def _record(job: Job[Any], counts: RunCounts, seconds: float, peaks: Peaks) -> None:
    """Add this run to the job's record, from which `plan` estimates costs. Receipts do not serve for this: they may be
    lost and written again by a run that computed nothing. Such a run does not change the record."""
    with hold_lock(job.store / "locks" / f"{job.slice.stage}-{job.key}.record.lock"):
        _add_to_record(job, counts, seconds, peaks)


def _add_to_record(job: Job[Any], counts: RunCounts, seconds: float, peaks: Peaks) -> None:
    path = job.store / "records" / f"{job.slice.stage}-{job.key}.json"
    earlier = read_record(path)
    if earlier and not counts.made:
        return
    earlier = earlier or Record(runs=0, seconds=0.0, made=0)
    names = device_names()
    devices = 1 if job.part else len(names)
    record = Record(
        runs=earlier.runs + 1,
        seconds=round(earlier.seconds + seconds, 3),
        stage=job.slice.stage,
        key=job.key,
        peak_memory_mib=max(earlier.peak_memory_mib or 0.0, peaks.peak_memory_mib),
        peak_gpu_mib=max(earlier.peak_gpu_mib or 0.0, peaks.peak_gpu_mib or 0.0) or None,
        gpu_busy=_mean_busy(earlier, peaks.gpu_busy, seconds),
        # a record begun by a version without this count would give a wrong rate
        made=None if earlier.made is None else earlier.made + counts.made,
        device=names[0],
        devices=devices,
        device_seconds=round(earlier.all_device_seconds + seconds * devices, 3),
        run=job.slice.volatile,
    )
    record.write(path)


def _mean_busy(earlier: Record, busy: float | None, seconds: float) -> float | None:
    """The busy share over all runs, each weighted by its time; None if one of them has none."""
    if not earlier.runs or busy is None:
        return busy
    if earlier.gpu_busy is None:
        return None
    total = earlier.seconds + seconds
    return round((earlier.gpu_busy * earlier.seconds + busy * seconds) / total, 4) if total else busy


def _peaks(usage: GpuUsage) -> Peaks:
    """Memory of this process and its largest child; of a GPU what torch allocated here, or, if child processes computed
    on it (training), what was in use on it."""
    peak_kib = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    gpu_mib = _peak_gpu_mib() or ((usage.peak_mib or 0.0) if usage.busy else 0.0)
    return Peaks(round(peak_kib / 1024, 1), gpu_mib or None, usage.busy)


def _peak_gpu_mib() -> float:
    """Peak memory of this process on any one GPU, in MiB; 0 without a GPU. Does not import torch."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0.0
    peaks = [torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count())]
    return round(max(peaks) / 2**20, 1)


def _summary(counts: RunCounts) -> str:
    return ", ".join(f"{name} {value}" for name, value in counts.to_json().items() if isinstance(value, int | str))
