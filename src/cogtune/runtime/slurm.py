"""The Slurm job that this process runs in, and whether it requeues itself when it is stopped.

Slurm requeues a pre-empted job only if it has to kill it. A job that writes a checkpoint and exits within the grace time
counts as failed, so it must requeue itself. SIGTERM alone does not say who stops the job: pre-emption, the signal before
the time limit (`--signal`) and `scancel` all send it. The state tells them apart: it is still RUNNING, except after
`scancel`.
"""

import logging
import math
import os
import re
import subprocess
import time
from dataclasses import dataclass

from cogtune.errors import UserError

_log = logging.getLogger(__name__)

MAX_RESTARTS = 100
"""Default limit of restarts of a job, counted by Slurm: one that is pre-empted before its first step every time ends too."""
_SECONDS = 30.0
"""Limit for one Slurm command. A busy controller answers after some seconds; the grace time is often 30 to 60 s."""
_ANSWER_SECONDS = 60.0
"""How long a command is repeated while the controller does not answer: it may be restarted, or busy."""
_AGAIN_SECONDS = 2.0
_NO_ANSWER = re.compile(r"contact slurm controller|timed out|zero bytes|connection|try again|temporarily", re.I)
"""What commands print if the controller does not answer; other errors are not repeated."""
_PATIENCE_SECONDS = 30.0
"""How long a Slurm job waits for a live owner of a lock or of rows: the owner may be about to end."""
_VISIBLE_SECONDS = 60.0
"""How long what another node wrote may be invisible on a network file system (NFS: acdirmax)."""
_LINK_SECONDS = 5.0
"""Limit for linking a requeued job to another one. Slurm kills its processes after KillWait, 30 s by default."""
_FIELD = re.compile(r"(?:^|\s)(\w+)=(\S*)")
_NAME = re.compile(r"JobName=.*? (?=UserId=\S+\(\d+\) GroupId=)")
"""The user chose it, so it may look like other fields. All other texts of users are behind the fields that are read."""


@dataclass(frozen=True)
class SlurmJob:
    """What `scontrol show job` says. ``id``: for Slurm's commands, "12", or "12_3" for a task of an array, because "12"
    may stand for all of its tasks; ``nodes``, ``tasks``: numbers granted; ``restarts``: how often it was requeued;
    ``preempted``: whether Slurm is taking its machine for another job; ``hosts``: node list, as n[1-2]."""

    id: str
    state: str
    nodes: int
    tasks: int
    restarts: int
    preempted: bool
    hosts: str


@dataclass(frozen=True)
class Decision:
    """Whether a stopped job requeues itself, and why (for the log)."""

    requeue: bool
    reason: str


def job_id() -> str | None:
    """The Slurm job that this process belongs to. The number of nodes and tasks is not read from the environment:
    Snakemake's jobstep removes SLURM_NNODES and SLURM_NTASKS."""
    return os.environ.get("SLURM_JOB_ID")


def this_job() -> SlurmJob | None:
    """The job that this process runs in; None outside Slurm. Raises UserError if Slurm does not answer."""
    job = job_id()
    if job is None:
        return None
    done = _answer("scontrol", "show", "job", "-o", job)
    if done.returncode:
        raise UserError(f"`scontrol show job {job}` failed ({_last_line(done.stderr)}); {_advice(done.stderr)}")
    return parse(job, done.stdout)


def _advice(message: str) -> str:
    if "No such file" in message:
        return "jobs need Slurm's programs, also in a container (docs/cluster.md)"
    if "Invalid job id" in message:
        return "if this shell is left from a job that has ended: unset SLURM_JOB_ID"
    return "run the same command again when Slurm answers"


def parse(job: str, text: str) -> SlurmJob:
    """The job in its line of `scontrol show job -o`: of an array, there is a line for each task. Raises UserError if it
    has no state."""
    line = next((line for line in text.splitlines() if line.startswith(f"JobId={job} ")), "")
    fields = dict(reversed(_FIELD.findall(_NAME.sub("", line, count=1))))  # of several, the first
    if "JobState" not in fields:
        raise UserError(f"`scontrol show job {job}`: expected JobId={job} … JobState=…, found {text.strip()[:200]!r}")
    array = f"{fields['ArrayJobId']}_{fields['ArrayTaskId']}" if fields.keys() >= {"ArrayJobId", "ArrayTaskId"} else ""
    return SlurmJob(
        id=array or job,
        state=fields["JobState"],
        nodes=_number(fields.get("NumNodes")),
        tasks=_number(fields.get("NumTasks")),
        restarts=int(fields.get("Restarts") or 0),
        preempted=fields.get("PreemptTime", "None") not in ("None", ""),
        hosts=fields.get("NodeList", ""),
    )


def decide(job: SlurmJob, progress: bool, limit: int) -> Decision:
    """Whether ``job``, stopped by SIGTERM, is requeued.

    A start without ``progress`` is not repeated unless the job was pre-empted: a time limit that is shorter than the
    start would repeat forever. At most ``limit`` restarts in all.
    """
    if job.state == "PENDING":
        return Decision(False, f"Slurm job {job.id} was requeued by Slurm; it starts again by itself")
    if job.state != "RUNNING":
        return Decision(
            False,
            f"Slurm job {job.id} is {job.state} (cancelled, or Slurm ends it itself), so it does not requeue itself",
        )
    why = "is pre-empted" if job.preempted else "is near its time limit, or was sent SIGTERM"
    if job.restarts >= limit:
        return Decision(
            False,
            f"Slurm job {job.id} {why}; it is not requeued, because it was restarted {job.restarts} times (limit {limit}: "
            f"--max-restarts, or the resource max_restarts of the rule). The same command resumes it",
        )
    if not progress and not job.preempted:
        return Decision(
            False,
            f"Slurm job {job.id} {why}; it is not requeued, because this start made no progress: increase the time limit "
            f"(the resource runtime of the rule) or send the signal later (--signal). The same command resumes it",
        )
    return Decision(True, f"Slurm job {job.id} {why}; requeued (restart {job.restarts + 1} of at most {limit})")


def check_restarts(limit: int) -> None:
    """Raises UserError if this job was restarted more than ``limit`` times: Slurm itself requeues jobs that it had to
    kill, and asks nobody whether they made progress."""
    job = this_job()
    if job is not None and job.restarts > limit:
        raise UserError(
            f"Slurm job {job.id} was restarted {job.restarts} times (limit {limit}: --max-restarts, or the resource "
            "max_restarts of the rule), so it ends now. If it was killed before each checkpoint, reduce args.save_interval, "
            "or use a partition with a longer grace time. The same command resumes it"
        )


def requeue_if_taken(progress: bool, limit: int) -> str | None:
    """Requeue this job if Slurm is taking its machine; returns what to log, None outside Slurm."""
    try:
        job = this_job()
    except UserError as error:
        return f"not requeued: {error}"
    if job is None:
        return None
    decision = decide(job, progress, limit)
    if decision.requeue:
        done = _answer("scontrol", "requeue", job.id)
        if done.returncode:
            return f"Slurm job {job.id} could not be requeued ({_last_line(done.stderr)}). The same command resumes it"
    return decision.reason


def patience() -> float:
    """Seconds that this process waits for another one that does its work: a Slurm job would hold its GPUs idle."""
    return _PATIENCE_SECONDS if job_id() else math.inf


def visible_seconds() -> float:
    """Seconds that this process waits for files that exist, but that its node may not see yet; 0 outside Slurm."""
    return _VISIBLE_SECONDS if job_id() else 0.0


def requeue_behind(owner: str) -> str | None:
    """Free this job's allocation until Slurm job ``owner``, which does the same work, has ended; returns why not, None if
    done. The caller ignores SIGTERM: Slurm sends it after the first command, and the second must still run."""
    try:
        job = this_job()
    except UserError as error:
        return f"This job could not be requeued: {error}"
    if job is None:
        return "this process is not in a Slurm job"
    done = _answer("scontrol", "requeue", job.id)
    if done.returncode:
        return f"Slurm job {job.id} could not be requeued ({_last_line(done.stderr)})"
    deadline = time.monotonic() + _LINK_SECONDS
    while _run("scontrol", "update", f"JobId={job.id}", f"Dependency=afterany:{owner}").returncode:
        if time.monotonic() > deadline:  # it starts again when Slurm likes, and looks again
            return None
        time.sleep(0.2)
    return None


def out_of_memory(job: str) -> bool | None:
    """Whether accounting knows a step of ``job`` that ran out of memory; None without accounting."""
    done = _run("sacct", "-j", job, "-n", "-P", "-o", "JobIDRaw,State")
    if done.returncode:
        return None
    rows = [line.partition("|") for line in done.stdout.splitlines()]
    return any(name.partition(".")[0] == job and state.startswith("OUT_OF_MEMORY") for name, _, state in rows)


def _answer(*command: str) -> "subprocess.CompletedProcess[str]":
    """`_run`, repeated while the controller does not answer."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    while (done := _run(*command)).returncode and _NO_ANSWER.search(done.stderr) and time.monotonic() < deadline:
        _log.warning("`%s`: %s; asking again", " ".join(command), _last_line(done.stderr))
        time.sleep(_AGAIN_SECONDS)
    return done


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    """A Slurm command. One that is missing or does not end counts as failed, with the reason in stderr."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def _number(text: str | None) -> int:
    """NumNodes and NumTasks of a pending job are ranges: 2-2."""
    match = re.match(r"\d+", text or "")
    return int(match[0]) if match else 1


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]
