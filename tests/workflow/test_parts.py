"""Caching, sampling and evaluation cut into parts by `--set-scatter`: the rows and figures of a run that is not cut."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from cogtune.data.shards import Shard
from cogtune.work.records import read_record
from tests.workflow.project import Project, environment

pytestmark = pytest.mark.workflow
STAGES = ("preprocess", "latents", "text", "sample", "evaluate")


def scatter(count: int) -> list[str]:
    return ["--set-scatter", *(f"{stage}={count}" for stage in STAGES)]


def rows(root: Path) -> dict[str, tuple[int, int]]:
    """The checksums of all rows of all stages. Fails for a row that is there twice."""
    shards = [(path.parent, Shard(path)) for stage in STAGES for path in root.glob(f"store/{stage}/*/*.safetensors")]
    names = Counter((folder, row) for folder, shard in shards for row in shard.rows())
    assert set(names.values()) == {1}, names.most_common(3)
    return {f"{folder.parent.name} {row}": shard.sums(row) for folder, shard in shards for row in shard.rows()}


def jobs(output: str) -> dict[str, int]:
    """Jobs by rule, in Snakemake's table."""
    return {name: int(count) for name, count in re.findall(r"^([a-z_]+) +([0-9]+)$", output, re.MULTILINE)}


@pytest.fixture
def copy(untouched: Project, tmp_path: Path) -> Project:
    return Project(Path(shutil.copytree(untouched.root, tmp_path / "project", symlinks=True)))


def forget_parts(project: Project) -> None:
    """Keep the training, and none of the results that are made in parts."""
    for name in ("results", ".snakemake", "store/records", "store/locks", *(f"store/{stage}" for stage in STAGES)):
        shutil.rmtree(project.root / name)
    project.snakemake("--until", "scan")


def test_parts_give_what_one_job_gives_and_another_number_runs_nothing(untouched: Project, copy: Project) -> None:
    forget_parts(copy)
    parts = {f"{stage}_part": 2 for stage in STAGES} | {"evaluate_part": 1}  # three clips are one batch of evaluate
    planned = jobs(copy.snakemake("-n", *scatter(2)).stdout)
    assert planned == jobs(copy.snakemake("-n").stdout) | parts | {"total": planned["total"]}
    copy.snakemake(*scatter(2))
    assert rows(copy.root) == rows(untouched.root)
    assert copy.metrics() == untouched.metrics()
    for stage in STAGES:
        (path,) = (copy.root / "store/records").glob(f"{stage}-*.json")
        record = read_record(path)
        assert record is not None
        assert record.runs == parts[f"{stage}_part"]
        logs = sorted(path.name.split(".")[1] for path in (copy.root / "results/.logs/parts").glob(f"{stage}-*"))
        assert logs == [f"{number + 1}-of-{record.runs}" for number in range(record.runs)]
        assert len(list((copy.root / "results/.benchmarks/parts").glob(f"{stage}-*"))) == record.runs
    timings = json.loads((copy.root / "results/tiny/timings.json").read_text())
    seconds = [
        json.loads(path.read_text())["seconds"] for path in (copy.root / "results/.receipts").glob("latents-*.json")
    ]
    assert timings["seconds.latents"] > 2 * seconds[0], "the cost is that of the parts, not that of finding their rows"

    before = copy.stamps()
    for arguments in ([], scatter(1), scatter(3), scatter(8)):
        assert "Nothing to be done" in copy.snakemake(*arguments).stderr
    assert copy.stamps() == before

    # With lost receipts no row is missing, so nothing is cut.
    shutil.rmtree(copy.root / "results/.receipts")
    copy.snakemake("--until", "scan")
    assert not [name for name in jobs(copy.snakemake("-n", *scatter(3)).stdout) if name.endswith("_part")]


def test_a_part_can_be_run_by_hand(copy: Project) -> None:
    """The stage itself gathers."""
    (folder,) = (copy.root / "store/text").iterdir()
    total = len([row for row in rows(copy.root) if row.startswith("text ")])
    shutil.rmtree(folder)
    command = [sys.executable, "-m", "cogtune", "text", "--base", "config/tiny.yaml", "--ranks", "2"]
    made = []
    for part in (["--part", "2-of-2"], ["--part", "1-of-2"], []):
        done = subprocess.run([*command, *part], cwd=copy.root, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        match = re.search(r"\[text.*made ([0-9]+)", done.stdout + done.stderr)
        assert match is not None
        made.append(int(match[1]))
    assert sum(made) == total
    assert made[2] == 0
    assert not list((copy.root / "results/.receipts/parts").glob("text-*"))


def test_invalid_numbers_of_parts_are_refused(project: Project) -> None:
    for argument in ("latnts=2", "train=2", "latents=5000"):
        done = project.snakemake("-n", "--set-scatter", argument, check=False)
        assert done.returncode == 2, done.stderr
        assert f"cogtune: --set-scatter {argument}: " in done.stderr
        assert "Traceback" not in done.stderr
    command = [sys.executable, "-m", "cogtune", "latents", "--base", "config/tiny.yaml", "--part"]
    for value in ("0-of-2", "3-of-2", "1-of-0", "x"):
        done = subprocess.run([*command, value], cwd=project.root, env=environment(), capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.count("error:") == 1
        assert "I-of-N" in done.stderr.splitlines()[-1]
