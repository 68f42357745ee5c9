"""Slurm jobs that an earlier Snakemake submitted from a working directory and that have not ended.

They outlive a main process that was killed. A new one that submitted the same jobs again would hold their GPUs twice.
"""

import logging
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cogtune.errors import UserError

_log = logging.getLogger(__name__)

_COMMENT = "rule_"
"""Snakemake's executor sets the comment of its jobs: rule_train_wildcards_60ba18619a32."""
_POLL_SECONDS = 5.0
_REPEAT_SECONDS = 600.0
_LIMIT_SECONDS = 60.0


@dataclass(frozen=True)
class SubmittedJob:
    """``name``: rule and wildcards, as "train 60ba18619a32"; ``state``: as `squeue` shows it."""

    id: str
    name: str
    state: str


def parse_queue(text: str, directory: Path) -> list[SubmittedJob]:
    """The jobs of ``directory`` in the output of `squeue --format=%i|%T|%k|%Z` (id, state, comment, working directory)."""
    jobs: list[SubmittedJob] = []
    for line in text.splitlines():
        job, _, rest = line.partition("|")
        state, _, rest = rest.partition("|")
        comment, _, place = rest.partition("|")
        if comment.startswith(_COMMENT) and Path(place).resolve() == directory.resolve():
            name = comment.removeprefix(_COMMENT).replace("_wildcards_", " ")
            jobs.append(SubmittedJob(job, name, state))
    return jobs


def submitted_jobs(directory: Path) -> list[SubmittedJob]:
    """This user's jobs of ``directory`` in the queue; none on a machine without Slurm. Raises UserError if Slurm does not
    answer: whether GPUs are held is then not known."""
    command = ["squeue", "--me", "--noheader", "--format=%i|%T|%k|%Z"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_SECONDS, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        return []
    except subprocess.TimeoutExpired:
        done = subprocess.CompletedProcess(command, 1, "", f"no answer within {_LIMIT_SECONDS:.0f} s")
    if done.returncode:
        raise UserError(
            f"`squeue` failed ({done.stderr.strip()}), so jobs of an earlier snakemake in this directory are not known; run "
            "again when Slurm answers"
        )
    return parse_queue(done.stdout, directory)


def await_submitted_jobs(directory: Path) -> None:
    """Wait until the jobs of an earlier Snakemake in ``directory`` have ended, and log which these are: at once, after a
    change, and every 10 minutes. Raises UserError as `submitted_jobs` does."""
    known: Sequence[SubmittedJob] = ()
    say_at = 0.0
    while jobs := submitted_jobs(directory):
        if jobs != known or time.monotonic() >= say_at:
            _log.warning(message(jobs))
            known, say_at = jobs, time.monotonic() + _REPEAT_SECONDS
        time.sleep(_POLL_SECONDS)


def message(jobs: Sequence[SubmittedJob]) -> str:
    """Which jobs this run waits for, and how to end them."""
    names = ", ".join(f"{job.id} ({job.name}, {job.state})" for job in jobs)
    ids = " ".join(job.id for job in jobs)
    return (
        f"waiting for Slurm jobs of an earlier snakemake in this directory: {names}. This run starts when they have ended, "
        f"and uses their results. To end them now, finished work is kept: scancel {ids}"
    )
