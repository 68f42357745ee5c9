"""Every command of docs/cluster.md is run: here, or by the test named beside it."""

import re
import shlex
import shutil
import sys

from tests.slurm.cluster import Cluster, profile_command
from tests.workflow.project import REPO, Project

RUN = "snakemake --workflow-profile profiles/mycluster"
ELSEWHERE = {
    "make setup": "what installed this environment",
    "export PATH=$PWD/.venv/bin:$PATH": "done for all tests",
    "nano profiles/mycluster/config.yaml": "tests change values by options",
    RUN: "test_workflow",
    f"{RUN} -n": "test_profile",
    "ls results/*/report.html": "test_workflow",
}
COPY = "cp -r profiles/slurm profiles/mycluster"
DOCTOR = "cogtune doctor --profile profiles/mycluster"
AS_A_JOB = f'sbatch --cpus-per-task=2 --mem=8G --time=7-0 --wrap="{RUN}"'


def test_every_shell_line_is_known() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (REPO / "docs/cluster.md").read_text(), re.DOTALL)
    lines = {line.strip() for block in blocks for line in block.splitlines()}
    assert lines == {*ELSEWHERE, COPY, DOCTOR, AS_A_JOB}


def test_doctor_compares_the_shipped_profile_with_the_cluster(cluster: Cluster, fresh: Project) -> None:
    cluster.run(*COPY.split(), cwd=fresh.root)
    said = cluster.run(sys.executable, "-m", *DOCTOR.split(), cwd=fresh.root, check=False).stdout
    assert "profile" in said
    accounting, misfit = [line for line in said.splitlines() if line.startswith("FAIL")]
    assert "accounting: off" in accounting
    assert "train: 8 GPUs a node: partition gpu has no node with that" in misfit, "the nodes of the tests have 2"


def test_a_run_is_a_job_itself(cluster: Cluster, fresh: Project) -> None:
    shutil.copytree(fresh.root / "profiles/slurm", fresh.root / "profiles/mycluster")
    words = shlex.split(AS_A_JOB)
    assert words[-1] == f"--wrap={RUN}"
    run = shlex.join(profile_command("--until", "scan", profile="mycluster"))
    main = cluster.sbatch(run, *words[1:-1], cwd=fresh.root)
    cluster.wait_for(main, "COMPLETED", seconds=300)
    (scan,) = [job for job in cluster.jobs() if job.fields["WorkDir"] == str(fresh.root) and job.number != main]
    assert scan.state == "COMPLETED"
    assert scan.fields["NumCPUs"] == "1", "not what the main job has"
