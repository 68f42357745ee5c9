"""Two working directories on one store: what one is doing is not moved, read or published by the other."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cogtune.runtime.locks import hold_lock
from tests.workflow.project import Project, environment, lay_out

pytestmark = pytest.mark.workflow


def directory(project: Project, root: Path, store: Path, ranks: int) -> Project:
    """A working directory with the same clips and config, and no results."""
    shutil.copytree(project.root, root, ignore=shutil.ignore_patterns("store", "results", ".snakemake"))
    text = f"store_dir: {store}\nranks: {ranks}\nexperiments:\n  tiny:\n    base: [config/tiny.yaml]\n"
    (root / "config/config.yaml").write_text(text)
    return Project(root)


def test_a_dry_run_beside_a_run_changes_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    project = lay_out(tmp_path / "project")  # its own: the store of the shared one holds what other tests left
    project.snakemake()
    store = tmp_path / "store"
    shutil.copytree(project.root / "store", store)
    mine, other = (directory(project, tmp_path / name, store, ranks) for name, ranks in (("mine", 2), ("other", 1)))
    other.snakemake("--until", "scan")
    (prepared,) = (store / "preprocess").iterdir()
    log = tmp_path / "mine.log"
    with hold_lock(store / "locks" / f"preprocess-{prepared.name}.lock"), log.open("w") as stream:
        shutil.rmtree(prepared)
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nolock"]
        run = subprocess.Popen(command, cwd=mine.root, env=environment(), stdout=stream, stderr=stream)
        deadline = time.monotonic() + 120
        while (
            "which holds the lock of preprocess" not in log.read_text()
        ):  # its jobs are cut and the first of them waits
            assert run.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.1)
        assert "preprocess" in other.snakemake("-n").stdout
        shutil.rmtree(other.root / "data")  # who reads there by mistake fails
    assert run.wait(timeout=240) == 0, log.read_text()[-6000:]

    assert (mine.root / "results/tiny/report.html").is_file()
    assert not (other.root / "results/tiny/report.html").exists()
    assert mine.metrics() == project.metrics()
    assert "Nothing to be done" in mine.snakemake().stderr

    shutil.copytree(mine.root / "data", other.root / "data")
    other.snakemake()
    assert (other.root / "results/tiny/report.html").is_file()
    assert other.metrics() == project.metrics()
