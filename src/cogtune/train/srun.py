"""Trains on the nodes of a Slurm job: srun starts one task for each rank, and this process follows them."""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cogtune.errors import UserError
from cogtune.runtime.slurm import SlurmJob
from cogtune.train import channel as channels
from cogtune.train.channel import Channel
from cogtune.train.ends import RankEnd, outcome
from cogtune.train.follow import WORKER, Follower, threads_of_rank
from cogtune.train.launch import announcing, forwarding_stops
from cogtune.train.network import own_address

_SRUN = [
    "srun", "--distribution=block", "--overlap", "--cpu-bind=none", "--gpu-bind=none", "--mpi=none", "--export=ALL",
    "--input=none", "--kill-on-bad-exit=0",
]  # fmt: skip
"""The step shares the job's resources with the step of this process. Ranks choose their GPU. This process ends the
ranks when one fails, not srun: so a rank that srun reports as killed was killed by something else."""
_KEPT = frozenset({"SLURM_JOB_ID", "SLURM_CONF", "SLURM_CLUSTER_NAME", "SLURM_CLUSTERS"})
"""Other SLURM_ variables are defaults for srun's options, of the step or job that this process is in."""
_OF_A_RANK = frozenset({"RANK", "LOCAL_RANK", "WORLD_SIZE"})

_TASK = re.compile(r"srun: error: (\S+): tasks? ([\d,\-]+): (.+)")
_SIGNALS = {
    "Killed": signal.SIGKILL,
    "Out Of Memory": signal.SIGKILL,
    "Terminated": signal.SIGTERM,
    "Segmentation fault": signal.SIGSEGV,
    "Bus error": signal.SIGBUS,
    "Aborted": signal.SIGABRT,
    "Illegal instruction": signal.SIGILL,
    "Floating point exception": signal.SIGFPE,
}


def check_ranks(ranks: int, job: SlurmJob) -> None:
    """Raises UserError if Slurm gave this job another number of tasks, or nodes that cannot share ``ranks`` evenly. On one
    node one task is enough: it starts the ranks itself."""
    if job.tasks != ranks and (job.nodes > 1 or job.tasks > 1):
        raise UserError(
            f"ranks: {ranks}, but Slurm job {job.id} has {job.tasks} tasks on {job.nodes} nodes; both must be equal. Set "
            f"`ranks: {job.tasks}` in config/config.yaml (--ranks {job.tasks}), or request {ranks} tasks (the resource "
            "tasks of the rule train)"
        )
    if ranks % job.nodes:
        raise UserError(
            f"ranks: {ranks} cannot be divided by {job.nodes}, the number of nodes of Slurm job {job.id}: every node must "
            "have as many ranks as the others"
        )


def run_ranks_by_srun(
    plan: dict[str, Any],
    ranks: int,
    threads: int,
    job: SlurmJob,
    log: Path,
    on_line: Callable[[str], None],
    on_poll: Callable[[], None],
) -> bool:
    """`launch.run_ranks` on all nodes of ``job``: srun starts one task for each rank."""
    check_ranks(ranks, job)
    channel = Channel.host(own_address())
    channel.send_plan(plan)
    geometry = [f"--nodes={job.nodes}", f"--ntasks={ranks}", f"--ntasks-per-node={ranks // job.nodes}"]
    environment = srun_environment(os.environ) | threads_of_rank(threads) | {channels.ADDRESS: channel.address}
    messages = SrunMessages(log)
    processes: list[subprocess.Popen[bytes]] = []
    with log.open("a") as output, forwarding_stops(processes) as received:
        processes.append(
            subprocess.Popen(
                [*_SRUN, *geometry, *WORKER], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        )
        follower = Follower(channel, ranks, processes[0], on_line, announcing(received, on_poll), messages.read)
        try:
            ends = follower.until_ended()
        finally:
            follower.end_all(lambda: _cancel_step(job.id, channel.step()))
    if processes[0].returncode and not received and all(end.code is None for end in ends):
        raise UserError(f"srun could not start the ranks: {messages.last or 'no message'} ({log})")
    return outcome(ends, received, log)


def srun_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the variables of Slurm that change srun's options."""
    return {
        name: value
        for name, value in environment.items()
        if name in _KEPT or not (name.startswith(("SLURM_", "SRUN_", "SBATCH_")) or name in _OF_A_RANK)
    }


class SrunMessages:
    """What srun says about tasks that ended, among the lines that are added to ``log`` from now on."""

    def __init__(self, log: Path) -> None:
        self._log, self._offset = log, log.stat().st_size if log.exists() else 0
        self._ends: dict[int, RankEnd] = {}
        self.last = ""
        """srun's last error message."""

    def read(self) -> Mapping[int, RankEnd]:
        """Rank -> its end, of the ranks that srun mentioned so far."""
        with self._log.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._line(line.decode(errors="replace").strip())
        return self._ends

    def _line(self, line: str) -> None:
        if line.startswith("srun: "):
            self.last = line
        match = _TASK.match(line)
        if match is None:
            return
        host, tasks, state = match.groups()
        code = next((-number for name, number in _SIGNALS.items() if state.startswith(name)), None)
        if exited := re.search(r"exit code (\d+)", state):
            code = int(exited[1])
        for rank in _numbers(tasks):
            end = RankEnd(rank, code, out_of_memory=state.startswith("Out Of Memory"), host=host)
            self._ends.setdefault(rank, end)


def _numbers(tasks: str) -> list[int]:
    """0,2-3 -> 0, 2, 3."""
    numbers = []
    for part in tasks.split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def _cancel_step(job: str, step: str | None) -> None:
    if step is not None:
        subprocess.run(["scancel", "--signal=KILL", f"{job}.{step}"], capture_output=True, timeout=30)
