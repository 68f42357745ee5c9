"""Another project uses the workflow as a Snakemake module, with a config of its own; and what Snakemake's catalog looks for."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.workflow.project import REPO, Project, environment

pytestmark = pytest.mark.workflow

SNAKEFILE = f"""configfile: "project.yaml"


module cogtune:
    snakefile:
        "{REPO}/workflow/Snakefile"
    config:
        config["tuning"]


use rule * from cogtune as cogtune_*


rule paper:
    default_target: True
    input:
        rules.cogtune_experiment_mine.input,
"""


@pytest.fixture
def other(project: Project, tmp_path: Path) -> Project:
    """A project with a Snakefile, a config and folders of its own; clips, weights and the model's files are the tiny ones."""
    for name in ("data", "assets"):
        (tmp_path / name).symlink_to(project.root / name)
    (tmp_path / "models").mkdir()
    shutil.copy(project.config, tmp_path / "models/tiny.yaml")
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    tuning = {"ranks": 2, "results_dir": "tuned", "experiments": {"mine": {"base": ["models/tiny.yaml"]}}}
    (tmp_path / "project.yaml").write_text(yaml.safe_dump({"title": "a paper", "tuning": tuning}))
    (tmp_path / "profiles/default").mkdir(parents=True)
    (tmp_path / "profiles/default/config.yaml").write_text("rerun-triggers: [mtime]\n")
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text("something: of the project's own\n")
    return Project(tmp_path)


def test_a_dry_run_waits_for_the_scan(other: Project) -> None:
    text = other.snakemake("-n").stdout
    assert "checkpoint cogtune_scan:" in text
    assert "rule paper:" in text
    assert not (other.root / "store").exists()


def test_only_rules_of_the_module_cannot_be_forced(other: Project) -> None:
    done = other.snakemake("-n", "--forcerun", "cogtune_text", check=False)
    assert done.returncode == 1
    assert "--forcerun cogtune_text: not supported" in done.stderr
    other.snakemake("-n", "--forcerun", "paper")


def test_a_profile_without_the_trigger_is_refused(other: Project) -> None:
    """Snakemake's default triggers restart jobs, and skip missing ones behind them."""
    done = other.snakemake("-n", "--workflow-profile", "none", check=False)
    assert done.returncode == 1
    assert "Put `rerun-triggers: [mtime]` into your profile" in done.stderr


def test_a_job_of_the_module_finds_its_files(project: Project, other: Project) -> None:
    """Snakemake runs no onstart of a module."""
    (receipt,) = (name for name in project.receipts() if name.startswith("text-"))
    other.snakemake(f"tuned/.receipts/{receipt}")
    assert (other.root / f"tuned/.receipts/{receipt}").exists()
    stages = {path.name.split("-")[0] for path in (other.root / "tuned/.receipts").iterdir()}
    assert stages == {"scan", "text"}


def test_a_slip_in_the_modules_config_is_told(other: Project) -> None:
    text = (other.root / "project.yaml").read_text()
    (other.root / "project.yaml").write_text(text.replace("results_dir", "result_dir"))
    command = [sys.executable, "-m", "snakemake", "-n"]
    done = subprocess.run(command, cwd=other.root, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "result_dir: unknown key; did you mean 'results_dir'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_catalogs_files_are_there() -> None:
    """https://snakemake.github.io/snakemake-workflow-catalog: what a workflow with standardized usage has."""
    for name in ("workflow/Snakefile", "config/README.md", "config/config.yaml", "README.md", "LICENSE"):
        assert (REPO / name).is_file(), name
    usage = yaml.safe_load((REPO / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    assert {"snakemake", "workflow"} <= set((REPO / "README.md").read_text().lower().split())
    assert {path.suffix for path in (REPO / "workflow/rules").iterdir() if path.is_file()} == {".smk"}
    assert usage["report"] is True, "test_targets makes one"
