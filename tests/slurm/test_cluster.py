"""The Slurm that the other tests stand on is a real one, and leaves nothing behind."""

import os
import socket
from pathlib import Path

from tests.slurm.cluster import Cluster, parse_job, wait_until


def test_each_node_hands_out_its_own_gpus(cluster: Cluster) -> None:
    said = cluster.run("srun", "-N2", "--gres=gpu:1", "sh", "-c", "echo $(hostname) $CUDA_VISIBLE_DEVICES").stdout
    assert sorted(said.splitlines()) == ["n1 0", "n2 0"]
    assert socket.gethostname() not in ("n1", "n2")
    assert "n1" not in Path("/etc/hosts").read_text()


def test_a_job_waits_while_another_has_the_gpus(cluster: Cluster) -> None:
    first = cluster.sbatch("sleep 60", "--nodes=2", "--gres=gpu:2")
    second = cluster.sbatch("echo $SLURM_JOB_ID", "--gres=gpu:1")
    cluster.wait_for(first, "RUNNING")
    assert cluster.job(second).state == "PENDING"
    cluster.run("scancel", str(first))
    assert cluster.wait_for(first, "CANCELLED").number == first
    assert cluster.wait_for(second, "COMPLETED").fields["Partition"] == "main"
    assert cluster.output(second).split() == [str(second)]


def test_a_requeued_job_starts_at_once(cluster: Cluster) -> None:
    job = cluster.sbatch("echo start $SLURM_RESTART_COUNT; sleep 60", "--requeue", "--open-mode=append")
    cluster.wait_for(job, "RUNNING")
    cluster.run("scontrol", "requeue", str(job))
    cluster.start_now(job)
    assert cluster.wait_for(job, "RUNNING").restarts == 1


def test_a_node_dies_and_comes_back(cluster: Cluster) -> None:
    job = cluster.sbatch("sleep 600", "--nodelist=n2", "--no-requeue")
    cluster.wait_for(job, "RUNNING")
    wait_until(lambda: len(cluster.processes("n2")) >= 3, "slurmd, slurmstepd and the job on n2", 30)
    cluster.kill_node("n2")
    assert cluster.wait_for(job, "NODE_FAIL", seconds=90).state == "NODE_FAIL"
    cluster.revive_node("n2")
    assert cluster.run("srun", "--nodelist=n2", "hostname").stdout.split() == ["n2"]


def test_nothing_is_left_after_the_end(cluster: Cluster) -> None:
    other = Cluster()
    job = other.sbatch("trap '' TERM; setsid sleep 601")
    other.wait_for(job, "RUNNING")
    namespace = os.readlink(f"/proc/{other._daemons.pid}/ns/mnt")
    other.stop()
    assert not other.folder.exists()
    assert namespace not in {_namespace(path) for path in Path("/proc").glob("[0-9]*/ns/mnt")}
    assert cluster.run("sinfo", "--noheader", "--partition=main", "--format=%D").stdout.strip() == "2"


def _namespace(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def test_values_of_a_job_may_hold_spaces() -> None:
    line = "JobId=7 JobName=a b JobState=RUNNING Reason=None Restarts=0 NodeList=n1 TRES=cpu=2,mem=4G"
    job = parse_job(line)
    assert (job.number, job.state, job.nodes, job.restarts) == (7, "RUNNING", "n1", 0)
    assert job.fields["JobName"] == "a b"
