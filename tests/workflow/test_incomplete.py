"""A job that outlives a killed Snakemake writes its receipt; the next run continues with the jobs after it."""

import base64
import subprocess
import sys
from pathlib import Path

from tests.workflow.project import REPO, environment

SNAKEFILE = """
rule last:
    input: ancient("first.json")
    output: "last.json"
    shell: "touch {output}"

rule first:
    output: "first.json"
    shell: "touch {output}"
"""


def test_jobs_after_a_receipt_of_a_killed_run_are_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "first.json").write_text("{}")
    marker = tmp_path / ".snakemake/incomplete" / base64.b64encode(b"first.json").decode()
    marker.parent.mkdir(parents=True)
    marker.touch()
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", str(REPO / "profiles/default"), "--cores", "1"]
    subprocess.run(command, cwd=tmp_path, env=environment(), check=True, timeout=120)
    assert (tmp_path / "last.json").exists()
