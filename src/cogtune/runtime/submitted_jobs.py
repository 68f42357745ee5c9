"""Slurm jobs that an earlier Snakemake submitted from a working directory and that have not ended.

They outlive a main process that was killed. A new one that submitted the same jobs again would hold their GPUs twice.
"""

import logging
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cogtune.errors import UserError

_log = logging.getLogger(__name__)

_COMMENT = "rule_"
"""Snakemake's executor sets the comment of its jobs: rule_train_wildcards_60ba18619a32."""
_POLL_SECONDS = 5.0, 60.0
"""Between two questions, at first and after some minutes: a controller that serves a cluster is not asked often for days."""
_REPEAT_SECONDS = 600.0
_LIMIT_SECONDS = 60.0


@dataclass(frozen=True)
class SubmittedJob:
    """``name``: rule and wildcards, as "train 60ba18619a32"; ``state``, ``reason``: as `squeue` shows them."""

    id: str
    name: str
    state: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.id} ({', '.join(filter(None, (self.name, self.state, self.reason)))})"

    @property
    def is_held(self) -> bool:
        """Whether it does not start before somebody releases it."""
        return self.state == "PENDING" and "held" in self.reason.lower()


def parse_queue(text: str, directory: Path) -> list[SubmittedJob]:
    """The jobs of ``directory`` in the output of `squeue --format=%i|%T|%r|%k|%Z` (id, state, reason, comment, working
    directory)."""
    jobs: list[SubmittedJob] = []
    for line in text.splitlines():
        job, _, rest = line.partition("|")
        state, _, rest = rest.partition("|")
        reason, _, rest = rest.partition("|")
        comment, _, place = rest.partition("|")
        if comment.startswith(_COMMENT) and Path(place).resolve() == directory.resolve():
            name = comment.removeprefix(_COMMENT).replace("_wildcards_", " ")
            jobs.append(SubmittedJob(job, name, state, "" if reason == "None" else reason))
    return jobs


def submitted_jobs(directory: Path) -> list[SubmittedJob]:
    """This user's jobs of ``directory`` in the queue; none on a machine without Slurm. Raises UserError if Slurm does not
    answer: whether GPUs are held is then not known."""
    command = ["squeue", "--me", "--noheader", "--format=%i|%T|%r|%k|%Z"]
    # The user's defaults for squeue may hide jobs.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT_SECONDS,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
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
    change, and every 10 minutes. Raises UserError as `submitted_jobs` does, but not once it waits: then it asks again."""
    known: Sequence[SubmittedJob] = ()
    started, say_at = time.monotonic(), 0.0
    jobs = submitted_jobs(directory)
    while jobs:
        if jobs != known or time.monotonic() >= say_at:
            _log.warning(message(jobs))
            known, say_at = jobs, time.monotonic() + _REPEAT_SECONDS
        shortest, longest = _POLL_SECONDS
        time.sleep(min(max(shortest, (time.monotonic() - started) / 10), longest))
        try:
            jobs = submitted_jobs(directory)
        except UserError as error:
            _log.warning("%s; still waiting", str(error).partition(",")[0])


def message(jobs: Sequence[SubmittedJob]) -> str:
    """Which jobs this run waits for, and how to end them."""
    names = ", ".join(map(str, jobs))
    ids = " ".join(job.id for job in jobs)
    held = " ".join(job.id for job in jobs if job.is_held)
    start = f". A held job does not start by itself: scontrol release {held}" if held else ""
    return (
        f"waiting for Slurm jobs of an earlier snakemake in this directory: {names}. This run starts when they have ended, "
        f"and uses their results. To end them now, finished work is kept: scancel {ids}{start}"
    )
