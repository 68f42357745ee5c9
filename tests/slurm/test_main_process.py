"""The main process of Snakemake and its jobs: neither depends on what happens to the other, or to a config, meanwhile."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import NODES, Cluster, JobState, profile_command, wait_until
from tests.workflow.project import Project

SCAN = ("--until", "scan")


@pytest.fixture
def drained(cluster: Cluster) -> Iterator[Cluster]:
    """No job starts until `resume`."""
    cluster.run("scontrol", "update", f"NodeName={','.join(NODES)}", "State=DRAIN", "Reason=test")
    yield cluster
    resume(cluster)


def resume(cluster: Cluster) -> None:
    cluster.run("scontrol", "update", f"NodeName={','.join(NODES)}", "State=RESUME", check=False)


def jobs_of(cluster: Cluster, project: Project) -> list[JobState]:
    return [job for job in cluster.jobs() if job.fields["WorkDir"] == str(project.root)]


def test_a_config_that_breaks_while_a_job_is_queued_changes_nothing(
    drained: Cluster, fresh: Project, tmp_path: Path
) -> None:
    log = tmp_path / "main.log"
    main = drained.popen(profile_command(*SCAN), cwd=fresh.root, log=log)
    wait_until(lambda: bool(jobs_of(drained, fresh)) or main.poll() is not None, "submitted job", 180)
    for path in (fresh.root / "config").iterdir():
        path.write_text("model: [broken")
    resume(drained)
    assert main.wait(timeout=300) == 0, log.read_text()[-6000:]
    (scan,) = jobs_of(drained, fresh)
    assert scan.state == "COMPLETED"
    assert any(name.startswith("scan-") for name in fresh.receipts())


def test_a_restarted_main_process_waits_for_the_jobs_of_a_killed_one(
    drained: Cluster, fresh: Project, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    killed = drained.popen(profile_command(*SCAN), cwd=fresh.root, log=first)
    wait_until(lambda: bool(jobs_of(drained, fresh)) or killed.poll() is not None, "submitted job", 180)
    killed.kill()
    killed.wait()
    (scan,) = jobs_of(drained, fresh)
    main = drained.popen(profile_command(*SCAN), cwd=fresh.root, log=second)
    words = "waiting for Slurm jobs of an earlier snakemake in this directory"
    wait_until(lambda: words in second.read_text() or main.poll() is not None, "word of the first job", 120)
    assert f"{scan.number} (scan " in second.read_text()
    assert f"scancel {scan.number}" in second.read_text()
    resume(drained)
    assert main.wait(timeout=300) == 0, second.read_text()[-6000:]
    assert [job.number for job in jobs_of(drained, fresh)] == [scan.number], "its result is used"
    assert drained.job(scan.number).state == "COMPLETED"
    (text,) = (path.read_text() for path in (fresh.root / "results/.logs").glob("scan-*.log"))
    assert "[scan]" in text
