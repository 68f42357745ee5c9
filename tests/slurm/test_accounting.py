"""A Slurm with accounting, as real clusters are: the shipped profile asks `sacct`, which knows jobs that ran out of memory
or were pre-empted."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import PROGRAMS, Cluster, missing, wait_until
from tests.slurm.daemons import limits_memory
from tests.slurm.test_training import ENDLESS, ONE_NODE, STEPS, TWO_NODES, Run, copy_of, no_rank_left, ranks_of
from tests.workflow.project import Project

ALLOCATE = "import time\nheld = []\nwhile True:\n    held.append(bytearray(b'1') * (4 << 20))\n    time.sleep(0.001)\n"
"""A program that uses more and more memory."""
NO_LIMITS = "no memory cgroups of version 1 that this process can write"


@pytest.fixture(scope="module")
def accounted() -> Iterator[Cluster]:
    programs = (*PROGRAMS, "slurmdbd", "mariadbd", "mariadb-install-db")
    if (reason := missing(programs, "slurm-wlm munge slurmdbd mariadb-server")) is not None:
        pytest.skip(f"no Slurm with accounting here: {reason}")
    started = Cluster(accounting=True)
    yield started
    started.stop()


@pytest.fixture
def run(encoded: Project, tmp_path: Path) -> Run:
    return copy_of(encoded, tmp_path)


def states(cluster: Cluster, job: int) -> list[str]:
    """What sacct knows of all starts of a job."""
    options = ["--duplicates", "--allocations", "--noheader", "--parsable2", "--format=State"]
    return cluster.run("sacct", f"--jobs={job}", *options).stdout.split()


@pytest.mark.skipif(not limits_memory(), reason=NO_LIMITS)
@pytest.mark.parametrize("nodes", [ONE_NODE, TWO_NODES], ids=["one node", "two nodes"])
def test_a_rank_that_the_kernel_kills_for_memory(accounted: Cluster, run: Run, nodes: tuple[str, ...]) -> None:
    """Something else in the job uses up its memory, and the kernel chooses rank 1."""
    job = run.start(accounted, *nodes, steps=ENDLESS)
    run.wait_for_step(accounted, job, 2)
    rank = ranks_of(run)[1]
    Path(f"/proc/{rank}/oom_score_adj").write_text("1000")
    (cgroup,) = re.findall(r":memory:(.*)", Path(f"/proc/{rank}/cgroup").read_text())
    procs = Path("/sys/fs/cgroup/memory") / cgroup.lstrip("/") / "cgroup.procs"
    allocating = subprocess.Popen([sys.executable, "-c", f"open({str(procs)!r}, 'w').write('0')\n{ALLOCATE}"])
    try:
        wait_until(lambda: not Path(f"/proc/{rank}").exists(), f"end of rank 1 ({rank})", 60)
    finally:
        allocating.kill()
        allocating.wait()
    state = accounted.wait_for(job, "FAILED", "OUT_OF_MEMORY", seconds=60).state
    place = " on n2" if nodes is TWO_NODES else ""
    said = accounted.output(job)
    assert f"rank 1{place} was killed by SIGKILL; it was out of memory: reduce" in said, said[-3000:]
    assert "request more memory (mem_mb of the rule train under Slurm)" in said
    wait_until(lambda: states(accounted, job) == [state], f"{state} in the database", 30)
    no_rank_left(run)
    accounted.cancel_all()


def test_a_preempted_job_of_the_shipped_profile(accounted: Cluster, run: Run) -> None:
    """Snakemake sees by `sacct` that it was pre-empted, waits for it, and its log keeps both starts."""
    root = run.project.root
    for old, new in (("train_iters: 6", f"train_iters: {STEPS}"), ("save_interval: 2", "save_interval: 1000")):
        run.project.edit(old, new)
    run.project.snakemake("--until", "scan")
    shutil.copytree(root / "profiles/slurm", root / "profiles/mycluster")
    profile = root / "profiles/mycluster/config.yaml"
    run.project.edit("train: {slurm_extra", "train: {slurm_partition: spot, slurm_extra", profile)
    run.project.edit("before-status-checks: 20", "before-status-checks: 3", profile)
    run.project.edit("checks-per-second: 0.1", "checks-per-second: 10", profile)
    run.project.edit("- ranks=8", "- ranks=2", profile)
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", "profiles/mycluster", "--until", "train"]
    log = root / "main.log"
    main = accounted.popen(command, cwd=root, log=log)

    def training() -> list[int]:
        assert main.poll() is None, log.read_text()[-6000:]
        mine = [job for job in accounted.jobs() if job.fields["WorkDir"] == str(root)]
        return [job.number for job in mine if "rule_train" in job.fields["Comment"]]

    wait_until(lambda: bool(training()), "submitted training", 300)
    (job,) = training()
    run.wait_for_step(accounted, job, 3)
    other = accounted.sbatch("sleep 1", "--partition=urgent", "--nodes=2", "--exclusive")
    accounted.start_now(job)
    accounted.wait_for(other, "COMPLETED")
    assert main.wait(timeout=300) == 0, log.read_text()[-6000:]
    assert accounted.job(job).restarts == 1
    known = ["REQUEUED", "COMPLETED"]
    wait_until(lambda: training_states(states(accounted, job)) == known, "both starts in the database", 30)
    (path,) = (root / "results/.logs").glob("train-*.log")
    text = path.read_text()
    assert f"Slurm job {job} is pre-empted; requeued (restart 1 of at most 100)" in text
    assert text.count("] key ") == 2, "both starts"


def training_states(states: list[str]) -> list[str]:
    """Slurm calls the end of the first start REQUEUED or PREEMPTED, whichever it notices first."""
    return ["REQUEUED" if state == "PREEMPTED" else state for state in states]


@pytest.mark.slow
def test_accounting_that_does_not_answer_for_a_while(accounted: Cluster, run: Run) -> None:
    """With the profile's attempts. The executor's own 5 take a second; then it forgets its jobs and never ends."""
    root = run.project.root
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", "profiles/slurm", "--until", "scan"]
    log = root / "main.log"
    main = accounted.popen([*command, "--config", "device=A100", "ranks=2"], cwd=root, log=log)
    wait_until(lambda: "has been submitted" in log.read_text() or main.poll() is not None, "submitted job", 180)
    os.kill(int((accounted.folder / "slurmdbd.pid").read_text()), signal.SIGKILL)
    time.sleep(60)  # the first query is 20 s after the submission
    again = accounted.popen(["slurmdbd", "-D"])
    try:
        assert main.wait(timeout=300) == 0, log.read_text()[-6000:]
    finally:
        main.kill()
        again.terminate()
        again.wait()
