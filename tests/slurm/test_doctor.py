"""`cogtune doctor` against a real Slurm: what it reads of it, and what it says about a profile."""

import json
import sys
from pathlib import Path

from tests.slurm.cluster import Cluster

PROFILE = """
executor: slurm
slurm-status-command: {status}
slurm-no-account: true
config: [ranks=4]
default-resources: {{slurm_partition: main, runtime: 60, mem_mb: 4000}}
set-resources:
  train: {{nodes: 2, tasks: 4, mpi: srun, gres: "'gpu:2'"}}
  text: {{gres: "'gpu:3'"}}
  sample: {{mem_mb: 9000000}}
  evaluate: {{slurm_partition: no_such}}
"""


def checks_of(cluster: Cluster, folder: Path, status: str) -> tuple[int, dict[str, str]]:
    (folder / "config.yaml").write_text(PROFILE.format(status=status))
    command = [sys.executable, "-m", "cogtune", "doctor", "--json", "--ranks", "1", "--profile", str(folder)]
    done = cluster.run(*command, cwd=folder, check=False)
    checks = json.loads(done.stdout)["checks"]
    return done.returncode, {one["name"]: one["level"] for one in checks if one["topic"] in ("slurm", "profile")}


def test_a_profile_against_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    code, levels = checks_of(cluster, tmp_path, "squeue")
    partitions = {name: level for name, level in levels.items() if name.startswith("partition ")}
    assert partitions.keys() >= {"partition main", "partition urgent", "partition spot"}
    assert levels == {"version": "OK", **partitions, "accounting": "OK", "all other rules": "OK"} | {
        "train": "OK", "text": "FAIL", "sample": "FAIL", "evaluate": "FAIL",
    }  # fmt: skip
    assert code == 1


def test_a_profile_that_asks_sacct_without_accounting(cluster: Cluster, tmp_path: Path) -> None:
    assert checks_of(cluster, tmp_path, "sacct")[1]["accounting"] == "FAIL"
