"""What users of Snakemake ask for: a stage (`--until`), a file by its name, benchmarks, the report."""

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workflow.project import REPO, Project

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


def test_the_clips_of_the_demo_are_made_only_for_experiments_that_use_them(fresh: Project) -> None:
    """A first run of one's own data must not need the demo's footage."""
    for name in ("config/tiny", "demo"):
        shutil.copytree(REPO / name, fresh.root / name)
    demo = "demo_data: true\nranks: 2\nexperiments:\n  demo:\n    base: [config/tiny/demo.yaml]"
    fresh.edit("ranks: 2\nexperiments:", demo, fresh.root / "config/config.yaml")
    own = fresh.snakemake("-n", "experiment_tiny")
    assert set(re.findall(r"^checkpoint (\w+):", own.stdout, re.MULTILINE)) == {"scan"}
    assert "after the scan: about 8 more jobs; `cogtune plan tiny` shows them" in own.stderr
    everything = fresh.snakemake("-n")
    assert set(re.findall(r"^checkpoint (\w+):", everything.stdout, re.MULTILINE)) == {"demo_clips", "scan"}


MISSING = {"train", "export", "sample", "evaluate", "report", "all"}
"""The jobs that a changed learning rate makes necessary."""
RECEIPT = "results/.receipts/text-{text}.json"


@pytest.fixture
def changed(project: Project) -> Iterator[Project]:
    """The finished project with another learning rate."""
    project.edit("lr: 0.001", "lr: 0.016")
    yield project
    project.edit("lr: 0.016", "lr: 0.001")


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        ("--force all " + RECEIPT, "--force " + RECEIPT),
        ("--forcerun text", "--forcerun text"),
        ("--forcerun " + RECEIPT, "--forcerun " + RECEIPT),
        ("--rerun-triggers params", "--rerun-triggers params"),
        ("--workflow-profile none", "--rerun-triggers code input mtime params software-env"),
        ("--workflow-profile none --rerun-triggers mtime --rerun-incomplete", "--rerun-incomplete"),
        ("--force all", None),
        ("--forceall all " + RECEIPT, None),
        ("--forcerun", None),
        ("--rerun-incomplete", None),
        ("--trust-io-cache", None),
        ("--consider-ancient report=0", None),
    ],
)
def test_no_option_hides_missing_jobs(changed: Project, flags: str, refused: str | None) -> None:
    """Snakemake does not check the jobs behind one that it restarts: it would skip them with exit code 0."""
    text = next(name[5:-5] for name in changed.receipts() if name.startswith("text-"))
    done = changed.snakemake("-n", *flags.format(text=text).split(), check=False)
    if refused is None:
        jobs = set(re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):", done.stdout, re.MULTILINE))
        assert jobs >= MISSING, done.stderr
    else:
        assert done.returncode == 1
        assert f"{refused.format(text=text)}: not supported" in sentence(done.stderr)


def test_omit_from_runs_what_comes_before(changed: Project, fresh: Project) -> None:
    done = changed.snakemake("-n", "--omit-from", "sample")
    assert set(re.findall(r"^rule (\w+):", done.stdout, re.MULTILINE)) == {"train", "export"}
    done = fresh.snakemake("-n", "--omit-from", "train", check=False)
    assert done.returncode == 1
    assert "--omit-from train: " in sentence(done.stderr)
    assert "run `snakemake --until scan` first" in sentence(done.stderr)


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


def test_a_dry_run_shows_the_resources(changed: Project) -> None:
    text = changed.snakemake("-n").stdout
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
