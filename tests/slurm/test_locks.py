"""A job whose work another live job does frees its allocation, and continues when that one has ended; what a requeue is of."""

import shlex
import sys
from pathlib import Path

from tests.slurm.cluster import Cluster, wait_until
from tests.workflow.project import Project

KEY = """
from cogtune.work.workspace import Workspace
workspace = Workspace.load("config/config.yaml")
workspace.writes.held = True
print(workspace.scan_receipts("tiny")[0].stem)
"""
HOLD = """
import sys, time
from cogtune.runtime.locks import hold_lock
with hold_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def python(script: str, *words: str) -> str:
    return shlex.join([sys.executable, "-c", script, *words])


def test_a_job_leaves_its_node_while_another_job_does_its_work(cluster: Cluster, fresh: Project) -> None:
    key = cluster.run(sys.executable, "-c", KEY, cwd=fresh.root).stdout.strip()
    owner = cluster.sbatch(python(HOLD, f"store/locks/{key}.lock"), "--nodelist=n1", cwd=fresh.root)
    wait_until(lambda: output(cluster, owner).startswith("held"), "owner of the lock", 120)
    work = shlex.join([sys.executable, "-m", "cogtune", "scan", "--base", "config/tiny.yaml", "--log", "scan.log"])
    options = ("--nodelist=n2", "--gres=gpu:2", "--requeue", "--open-mode=append")
    job = cluster.sbatch(f"srun {work}", *options, cwd=fresh.root)
    wait_until(lambda: (fresh.root / "scan.log").exists(), "start of the second job", 120)
    requeued = cluster.wait_for(job, "PENDING", seconds=60)
    assert requeued.fields["Dependency"].startswith(f"afterany:{owner}"), requeued.fields
    assert f"Slurm job {owner}) holds the lock of {key}" in (fresh.root / "scan.log").read_text()

    cluster.run("scancel", str(owner))
    cluster.wait_for(owner, "CANCELLED")
    cluster.start_now(job)
    assert cluster.wait_for(job, "COMPLETED", seconds=180).restarts == 1, output(cluster, job)
    assert (fresh.root / "results/.receipts" / f"{key}.json").exists()


def test_only_the_stopped_task_of_an_array_is_requeued(cluster: Cluster) -> None:
    """The last task has the number of the whole array."""
    stopped = "from cogtune.runtime.slurm import requeue_if_taken; print(requeue_if_taken(True, 9))"
    script = f"[ $SLURM_ARRAY_TASK_ID = 0 ] || {python(stopped)}; sleep 600"
    array = cluster.sbatch(script, "--array=0-1", "--mem=100", "--requeue")

    def tasks() -> dict[str, tuple[str, int]]:
        mine = [job for job in cluster.jobs() if job.fields.get("ArrayJobId") == str(array)]
        return {job.fields["ArrayTaskId"]: (job.state, job.restarts) for job in mine}

    wait_until(lambda: tasks().get("1") == ("PENDING", 1), "requeued task", 120)
    assert tasks() == {"0": ("RUNNING", 0), "1": ("PENDING", 1)}


def output(cluster: Cluster, job: int) -> str:
    path = Path(cluster.folder / f"log/job-{job}.out")
    return path.read_text() if path.exists() else ""
