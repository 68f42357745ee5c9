"""Training as jobs of a real Slurm: two nodes, pre-emption, time limits, cancelled jobs, killed ranks.

The jobs run `cogtune train` in a copy of a project whose clips and captions are encoded. test_profile and test_workflow
run the same through Snakemake.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, login_environment, wait_until
from tests.workflow.project import Project

STEPS = 350
"""14 s of training on an idle machine: Slurm needs up to 4 s to pre-empt it."""
ENDLESS = 100_000
"""Steps of a training that a test stops."""
LIMIT = 600
"""Seconds that a step of a test may take on a busy machine."""


def command(ranks: int, *options: str, steps: int = STEPS) -> list[str]:
    """`cogtune train` with a log, by hand."""
    train = [sys.executable, "-m", "cogtune", "train", "--base", "config/tiny.yaml", f"--ranks={ranks}"]
    changes = [f"args.train_iters={steps}", "args.save_interval=1000", "args.threads_per_rank=1"]
    return [*train, "--log=train.log", "--plain", *options, "--", *changes]


@dataclass(frozen=True)
class Run:
    """A training in a project of its own."""

    project: Project

    def start(
        self, cluster: Cluster, *options: str, ranks: int = 2, steps: int = STEPS, more: tuple[str, ...] = ()
    ) -> int:
        """Submit it; the number of the job. ``more``: options of cogtune. On one node it runs in a step, as Snakemake runs a
        job: Slurm sends SIGTERM to steps, and not to the batch script."""
        step = ["srun", "-n1", "--nodes=1"] if "--nodes=1" in options else []
        script = shlex.join([*step, *command(ranks, *more, steps=steps)])
        return cluster.sbatch(script, "--mem=2000", "--requeue", "--open-mode=append", *options, cwd=self.project.root)

    @property
    def folder(self) -> Path:
        return next(iter((self.project.root / "store/train").glob("*")), self.project.root / "none")

    def steps(self) -> int:
        path = self.folder / "log.jsonl"
        return path.read_text().count('"loss"') if path.exists() else 0

    def wait_for_step(self, cluster: Cluster, job: int, step: int) -> None:
        def reached() -> bool:
            state = cluster.job(job).state
            assert state in ("PENDING", "RUNNING", "COMPLETING"), f"{state}\n{cluster.output(job)[-4000:]}"
            return self.steps() >= step

        wait_until(reached, f"step {step}", LIMIT)

    def log(self) -> str:
        path = self.folder / "ranks.log"
        return path.read_text() if path.exists() else ""

    def checkpoint(self) -> int:
        """The last finished step in a checkpoint."""
        return max(int(path.name.removeprefix("step-")) for path in (self.folder / "checkpoints").glob("step-*"))

    def weights(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / "final").glob("*.safetensors")}


def no_rank_left(run: Run) -> None:
    """Wait until no process works in the project."""

    def ranks() -> list[str]:
        left = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(path / "cwd") == str(run.project.root) and b"cogtune" in (path / "cmdline").read_bytes():
                    left.append(path.name)
            except OSError:
                pass
        return left

    wait_until(lambda: not ranks(), "end of all ranks", 60)


def ranks_of(run: Run) -> dict[int, int]:
    """Rank -> its process."""
    pids: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            if os.readlink(path / "cwd") == str(run.project.root) and words[1:3] == [b"-m", b"cogtune.train.worker"]:
                told = dict(
                    pair.split(b"=", 1) for pair in (path / "environ").read_bytes().split(b"\0") if b"=" in pair
                )
                pids[int(told.get(b"RANK") or told[b"SLURM_PROCID"])] = int(path.name)
        except OSError:
            pass
    return pids


def copy_of(encoded: Project, folder: Path) -> Run:
    return Run(Project(Path(shutil.copytree(encoded.root, folder / "project", symlinks=True))))


@pytest.fixture
def run(encoded: Project, tmp_path: Path) -> Run:
    return copy_of(encoded, tmp_path)


@pytest.fixture(scope="module")
def local(encoded: Project, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two ranks on this machine, without Slurm and undisturbed."""
    done_here = copy_of(encoded, tmp_path_factory.mktemp("local"))
    values = login_environment() | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command(2), cwd=done_here.project.root, env=values, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-8000:]
    return done_here


def finish(cluster: Cluster, run: Run, job: int) -> None:
    cluster.wait_for(job, "COMPLETED", seconds=LIMIT)
    assert run.steps() == STEPS


ONE_NODE = ("--nodes=1", "--ntasks=1")
TWO_NODES = ("--nodes=2", "--ntasks=2", "--ntasks-per-node=1")


def test_two_nodes_give_the_bytes_of_one_machine(cluster: Cluster, run: Run, local: Run) -> None:
    job = run.start(cluster, *TWO_NODES)
    finish(cluster, run, job)
    assert "2 ranks, Slurm job" in run.log()
    assert run.weights() == local.weights()
    summary = json.loads((run.folder / "final/summary.json").read_text())
    assert summary["ranks"] == 2


@pytest.mark.parametrize("nodes", [ONE_NODE, TWO_NODES], ids=["one node", "two nodes"])
def test_a_preempted_training_requeues_itself_once(
    cluster: Cluster, run: Run, local: Run, nodes: tuple[str, ...]
) -> None:
    job = run.start(cluster, "--partition=spot", *nodes)
    run.wait_for_step(cluster, job, 3)
    other = cluster.sbatch("sleep 1", "--partition=urgent", "--nodes=2", "--exclusive")
    cluster.start_now(job)
    stopped_at = run.checkpoint()
    cluster.wait_for(other, "COMPLETED")
    finish(cluster, run, job)
    assert cluster.job(job).restarts == 1
    assert f"Slurm job {job} is pre-empted; requeued (restart 1 of at most 100)" in run.log()
    assert f"resuming after step {stopped_at} of {STEPS}" in run.log()
    assert run.weights() == local.weights()


def test_the_signal_before_a_time_limit_requeues_too(cluster: Cluster, run: Run) -> None:
    """Slurm knows limits of whole minutes, so the training must last for two. Equal weights: see the pre-empted ones."""
    job = run.start(cluster, *ONE_NODE, "--time=30", "--signal=TERM@30", steps=ENDLESS, more=("--max-restarts=1",))
    run.wait_for_step(cluster, job, 3)
    limit_soon(cluster, job)
    cluster.start_now(job)
    stopped_at = run.checkpoint()
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=30")
    run.wait_for_step(cluster, job, stopped_at + 1)
    assert cluster.job(job).restarts == 1
    assert "near its time limit, or was sent SIGTERM; requeued (restart 1 of at most 1)" in run.log()
    assert f"resuming after step {stopped_at} of {ENDLESS}" in run.log()


def limit_soon(cluster: Cluster, job: int) -> None:
    """Set the time limit of a running job to a whole minute in 40 to 99 s: the signal comes 30 s before it."""
    hours, minutes, seconds = map(int, cluster.job(job).fields["RunTime"].split(":"))
    limit = hours * 60 + minutes + (1 if seconds <= 20 else 2)
    cluster.run("scontrol", "update", f"JobId={job}", f"TimeLimit={limit}")


def test_a_start_without_a_step_is_not_repeated(cluster: Cluster, run: Run) -> None:
    """The signal comes while the ranks import torch: seconds before the first step, also on a fast machine."""
    job = run.start(cluster, *ONE_NODE)
    wait_until(lambda: "start of key" in run.log(), "start of the ranks", LIMIT)
    cluster.run("scancel", "--signal=TERM", str(job))
    assert cluster.wait_for(job, "FAILED", seconds=LIMIT).restarts == 0
    assert "this start made no progress" in cluster.output(job)
    assert run.steps() == 0


def test_the_limit_of_restarts_ends_it(cluster: Cluster, run: Run) -> None:
    job = run.start(cluster, *ONE_NODE, more=("--max-restarts=0",))
    run.wait_for_step(cluster, job, 2)
    cluster.run("scancel", "--signal=TERM", str(job))
    assert cluster.wait_for(job, "FAILED", seconds=LIMIT).restarts == 0
    assert "it was restarted 0 times (limit 0" in run.log()


def test_a_cancelled_training_is_not_requeued(cluster: Cluster, run: Run) -> None:
    job = run.start(cluster, *TWO_NODES)
    run.wait_for_step(cluster, job, 2)
    cluster.run("scancel", str(job))
    assert cluster.wait_for(job, "CANCELLED", seconds=LIMIT).restarts == 0
    no_rank_left(run)


@pytest.mark.parametrize("nodes", [ONE_NODE, TWO_NODES], ids=["one node", "two nodes"])
def test_the_killed_rank_is_named(cluster: Cluster, run: Run, nodes: tuple[str, ...]) -> None:
    job = run.start(cluster, *nodes, steps=100_000)
    run.wait_for_step(cluster, job, 2)
    os.kill(ranks_of(run)[1], signal.SIGKILL)
    cluster.wait_for(job, "FAILED", seconds=60)
    place = " on n2" if nodes is TWO_NODES else ""
    assert f"rank 1{place} was killed by SIGKILL; the likely cause is that memory ran out" in cluster.output(job)
    assert f"sacct -j {job}" in cluster.output(job)
    no_rank_left(run)


def test_other_tasks_than_ranks_are_refused_at_the_start(cluster: Cluster, run: Run) -> None:
    job = run.start(cluster, "--nodes=2", "--ntasks=4", ranks=2)
    cluster.wait_for(job, "FAILED", seconds=LIMIT)
    assert f"ranks: 2, but Slurm job {job} has 4 tasks on 2 nodes; both must be equal" in cluster.output(job)
    assert run.steps() == 0


@pytest.mark.slow
def test_a_training_whose_node_died_goes_on_elsewhere(cluster: Cluster, run: Run, local: Run) -> None:
    """No rank of the other node writes any more when the job starts again."""
    job = run.start(cluster, "--nodelist=n2", *ONE_NODE)
    run.wait_for_step(cluster, job, 3)
    cluster.kill_node("n2")
    try:
        cluster.wait_for(job, "PENDING", seconds=120)
        cluster.run("scontrol", "update", f"JobId={job}", "ReqNodeList=n1", "StartTime=now")
        finish(cluster, run, job)
    finally:
        cluster.revive_node("n2")
    assert cluster.job(job).restarts == 1
    assert run.weights() == local.weights()
