"""Runs one job: lock, log, work, record, receipt, in this order."""

import importlib
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cogtune.config.plugins import load_used
from cogtune.errors import UserError
from cogtune.runtime.atomic import write_json
from cogtune.runtime.failures import explained, is_not_writable
from cogtune.runtime.locks import hold_lock
from cogtune.runtime.log import last_lines, log_to_file
from cogtune.runtime.machines import device_names
from cogtune.runtime.records import read_record
from cogtune.runtime.saved import write_sealed
from cogtune.stages.job import Job
from cogtune.train.launch import STOPPED
from cogtune.work.stages import STAGES

_log = logging.getLogger(__name__)


def execute(job: Job[Any], receipt: Path | None) -> dict[str, Any]:
    """Do what ``job`` lacks and write its receipt. Two jobs of one key never overlap: the second waits, then finds all made.

    Returns the receipt: stage, key, the stage's own counts, seconds.
    """
    name = job.slice.stage
    run: Callable[[Job[Any]], dict[str, Any]] = importlib.import_module(f"cogtune.stages.{name}").run
    folder = job.items_dir() if name in STAGES and STAGES[name].items else job.job_dir()
    with _lock(job.store / "locks" / f"{name}-{folder.name}.lock", folder) as locked:
        started = time.monotonic()
        with job.proven():
            load_used(job.slice.config())
        counts = _counts(run, job)
        seconds = time.monotonic() - started
        if locked:
            _record(job, counts, seconds)
    found = {"stage": name, "key": job.key, **counts, "seconds": round(seconds, 3)}
    if receipt is not None:
        write_json(receipt, found)
    cached = "cached: " if counts.get("made") == 0 else ""
    _log.info("[%s] %s%s in %.1f s", name, cached, _summary(counts), seconds)
    return found


def _counts(run: Callable[[Job[Any]], dict[str, Any]], job: Job[Any]) -> dict[str, Any]:
    """What the stage did. Raises UserError where a plugin ends the process: its exit code, 0 too, would be the job's."""
    try:
        return run(job)
    except SystemExit as error:
        if error.code == STOPPED:  # training was asked to stop, and will go on from its checkpoint
            raise
        used = ", ".join(job.slice.volatile.get("plugins", {})) or "a library"
        raise UserError(
            f"stage {job.slice.stage!r} was ended before it was done: {used} called sys.exit({error.code!r}); a plugin "
            f"must raise an error instead"
        ) from error


@contextmanager
def _lock(path: Path, folder: Path) -> Iterator[bool]:
    """Hold the lock of ``folder``; False where neither can be written: what is complete there can be used without it.

    Where the folder can be written and the lock cannot (the rights of a shared store differ from place to place), the
    error stands: two writers would not see each other.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(path))
        except OSError as error:
            nearest = next(place for place in (folder, *folder.parents) if place.exists())
            if not is_not_writable(error) or os.access(nearest, os.W_OK):
                raise
            yield False
        else:
            yield True


def execute_logged(job: Job[Any], receipt: Path | None, command: str) -> dict[str, Any]:
    """`execute` with its messages also in ``job.log_path``; a failure says how to repeat it by hand."""
    if job.log_path is None:
        return execute(job, receipt)
    try:
        with log_to_file(job.log_path), explained():
            _log.info("[%s] key %s: %s", job.slice.stage, job.key, command)
            return execute(job, receipt)
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt | SystemExit | UserError):
            tail = "\n".join(last_lines(job.log_path, 15))
            _log.error("\nstage %r failed; the end of %s:\n%s", job.slice.stage, job.log_path, tail)
        _log.error("\nto repeat this job by hand:\n  %s", command)
        raise


def _record(job: Job[Any], counts: dict[str, Any], seconds: float) -> None:
    """Add this run to the job's record. Receipts may be lost and written again by a run that made nothing, so what the
    work really cost is kept here: a run that only found its work done changes nothing. `plan` estimates from it."""
    path = job.store / "records" / f"{job.slice.stage}-{job.key}.json"
    known = read_record(path)
    if known and not counts.get("made"):
        return
    peak_kib = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    empty = {"stage": job.slice.stage, "key": job.key, "runs": 0, "seconds": 0.0, "peak_memory_mib": 0.0, "made": 0}
    known = known or empty
    names = device_names()
    record = known | {
        "runs": known["runs"] + 1,
        "seconds": round(known["seconds"] + seconds, 3),
        "peak_memory_mib": max(known["peak_memory_mib"], round(peak_kib / 1024, 1)),
        "device": names[0],
        "devices": len(names),
        "run": {name: job.slice.volatile[name] for name in ("values", "jobs", "machine") if name in job.slice.volatile},
    }
    if "made" in known:  # else a version that did not count it began this record, and a rate would be wrong
        record["made"] = known["made"] + counts.get("made", 0)
    if gpu_mib := _peak_gpu_mib():
        record["peak_gpu_mib"] = max(known.get("peak_gpu_mib", 0.0), gpu_mib)
    write_sealed(path, record)


def _peak_gpu_mib() -> float:
    """The most that this process held on one GPU; 0 without one. Torch is not imported for it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0.0
    peaks = [torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count())]
    return round(max(peaks) / 2**20, 1)


def _summary(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in counts.items() if isinstance(value, int | str))
