"""`cogtune plan` on the finished tiny project: what it says is what Snakemake then does."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.project import Project, environment

pytestmark = pytest.mark.workflow


def plan(root: Path) -> dict[str, dict[str, Any]]:
    """Stages by name, as JSON tells them."""
    command = [sys.executable, "-m", "cogtune", "plan", "--format", "json"]
    done = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (experiment,) = json.loads(done.stdout)["experiments"]
    return {stage["stage"]: stage for stage in experiment["stages"]}


def reasons(stage: dict[str, Any]) -> list[str]:
    return [reason["text"] for reason in stage["why"]]


def test_before_the_first_run(project: Project, tmp_path: Path) -> None:
    """The same project without its work: the scan runs inside the plan, everything else was never run."""
    fresh = tmp_path / "fresh"
    left_out = shutil.ignore_patterns("store", "results", ".snakemake")
    shutil.copytree(project.root, fresh, ignore=left_out)
    stages = plan(fresh)
    assert stages.pop("scan")["state"] == "up to date"
    assert {stage["state"] for stage in stages.values()} == {"stale"}
    assert reasons(stages.pop("report")) == ["never published"]
    assert {text for stage in stages.values() for text in reasons(stage)} == {"never run"}
    assert (stages["latents"]["todo"], stages["text"]["todo"], stages["train"]["todo"]) == (3, 3, 6)
    assert all(stage["estimate"]["seconds"] > 0 for stage in stages.values())
    receipts = [path.name.split("-")[0] for path in (fresh / "results/.receipts").iterdir()]
    assert receipts == ["scan"]


def test_after_it_nothing(project: Project) -> None:
    assert {stage["state"] for stage in plan(project.root).values()} == {"up to date"}
    command = ["make", "-o", ".venv/.installed", "plan"]
    made = subprocess.run(command, cwd=project.root, env=environment(), capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    assert "up to date: nothing to run (3 clips, 3 captions, 6 steps)" in made.stdout


def test_after_an_edit_what_snakemake_would_run(project: Project) -> None:
    project.edit("lr: 0.001", "lr: 0.004")
    try:
        line = 1 + next(i for i, text in enumerate(project.config.read_text().split("\n")) if "lr: 0.004" in text)
        stages = plan(project.root)
        runs = {name for name, stage in stages.items() if stage["state"] != "up to date"}
        assert reasons(stages["train"]) == [f"deepspeed.optimizer.params.lr 0.001 → 0.004 (config/tiny.yaml:{line})"]
        assert {stages[name]["estimate"]["basis"] for name in ("train", "sample", "evaluate")} == {"measured"}
        dry = project.snakemake("-n", "--quiet", "host").stdout
        assert runs == {name for name in stages if f"\nrule {name}:" in dry or f"\ncheckpoint {name}:" in dry}
    finally:
        project.edit("lr: 0.004", "lr: 0.001")
