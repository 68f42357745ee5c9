"""What users of Snakemake ask for: a stage (`--until`), a file by its name, benchmarks, the report."""

import base64
import re
import shutil
from pathlib import Path

import pytest

from tests.workflow.project import Project

pytestmark = pytest.mark.workflow


@pytest.fixture
def fresh(project: Project, tmp_path: Path) -> Project:
    """The same project before its first run."""
    copy = Project(tmp_path / "fresh")
    shutil.copytree(project.root, copy.root, ignore=shutil.ignore_patterns("store", "results", ".snakemake"))
    return copy


def sentence(text: str) -> str:
    """The one line that a failed command ends with."""
    assert "Traceback" not in text, text[-4000:]
    (line,) = {line for line in text.splitlines() if line.startswith("cogtune: ")}
    return line


def test_until_a_stage_asks_for_the_scan_first(fresh: Project) -> None:
    done = fresh.snakemake("-n", "--until", "train", check=False)
    assert done.returncode == 1
    assert "run `snakemake --until scan` first, then this command again" in sentence(done.stderr)
    fresh.snakemake("--until", "scan")
    assert {name.split("-")[0] for name in fresh.receipts()} == {"scan"}
    stages = set(re.findall(r"^rule (\w+):", fresh.snakemake("-n", "--until", "train").stdout, re.MULTILINE))
    assert stages == {"preprocess", "latents", "text", "train"}


@pytest.mark.parametrize("target", ["text", "train", "results/.receipts/text-0123456789ab.json"])
def test_a_forced_stage_is_refused(fresh: Project, target: str) -> None:
    """Snakemake would skip the missing jobs behind it, with exit code 0."""
    done = fresh.snakemake("-n", "--forcerun", target, check=False)
    assert done.returncode == 1
    assert f"--forcerun {target}: not supported" in sentence(done.stderr)
    assert "cogtune store drop KEY" in sentence(done.stderr)


def test_a_receipt_by_name_runs_the_scan_first(project: Project, fresh: Project) -> None:
    (wanted,) = (name for name in project.receipts() if name.startswith("text-"))
    fresh.snakemake(f"results/.receipts/{wanted}")
    assert {name.split("-")[0] for name in fresh.receipts()} == {"scan", "text"}


@pytest.mark.parametrize("stage", ["scan", "train"])
def test_a_receipt_that_no_experiment_has(project: Project, stage: str) -> None:
    done = project.snakemake(f"results/.receipts/{stage}-0123456789ab.json", check=False)
    assert done.returncode == 2
    assert "no experiment has a job 0123456789ab: " in sentence(done.stderr)


def test_every_job_leaves_a_benchmark(project: Project) -> None:
    benchmarks = {path.stem for path in (project.root / "results/.benchmarks").iterdir()}
    assert {Path(name).stem for name in project.receipts()} <= benchmarks
    assert any(name.startswith("report-tiny-") for name in benchmarks)


def test_a_dry_run_shows_the_resources(project: Project) -> None:
    project.edit("lr: 0.001", "lr: 0.016")
    try:
        text = project.snakemake("-n").stdout
    finally:
        project.edit("lr: 0.016", "lr: 0.001")
    train = text[text.index("rule train:") :]
    (line, *_) = re.findall(r"^ *resources: .*", train, re.MULTILINE)
    resources = dict(re.findall(r"(\w+)=(\d+)", line))
    assert {"mem_mb", "runtime", "disk_mb", "gpu"} <= resources.keys()
    assert 1000 < int(resources["mem_mb"]) < 4000, "two ranks"
    assert int(resources["runtime"]) >= 10


def test_snakemakes_report_holds_the_page(project: Project, tmp_path: Path) -> None:
    project.snakemake("--report", str(tmp_path / "out.html"))
    text = (tmp_path / "out.html").read_text()
    pages = [base64.b64decode(code) for code in re.findall(r"data:text/html;[^\"']*base64,([A-Za-z0-9+/=]+)", text)]
    assert (project.root / "results/tiny/report.html").read_bytes() in pages
    assert "samples beside their clips" in text, "the caption"
