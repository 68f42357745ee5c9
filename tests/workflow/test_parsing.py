"""Parsing only reads: lint, dry run, unlock and lists leave every file as it was, before the demo's data are made too."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.workflow.project import COPIED, REPO, Project, environment
from tests.workflow.test_read_only_store import namespaces

pytestmark = pytest.mark.workflow
LOOKING = (["--lint"], ["-n"], ["--unlock"], ["--list-rules"], ["--summary"], ["-n", "--until", "demo_clips"])


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as a user has it after `git clone`, with the experiments that it ships."""
    root = tmp_path_factory.mktemp("clone") / "cogtune"
    root.mkdir()
    for name in (*COPIED, "config", "demo"):
        source = REPO / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, root / name)
    return root


def content(root: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of every file, Snakemake's own folder left out: Snakemake makes that before it reads a Snakefile."""
    files = [path for path in root.rglob("*") if path.is_file() and ".snakemake" not in path.parts]
    return {str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files}


def look(root: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", *words]
    return subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("words", LOOKING, ids=" ".join)
def test_a_fresh_clone_stays_as_it_is(clone: Path, words: list[str]) -> None:
    before = content(clone)
    done = look(clone, words)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert content(clone) == before


def test_a_dry_run_needs_no_cores_and_names_the_demo(clone: Path) -> None:
    """Without the profile, which says `cores: all`."""
    done = look(clone, ["-n", "--workflow-profile", "none", "--rerun-triggers", "mtime"])
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "checkpoint demo_clips:" in done.stdout
    assert re.search(
        r"^after the scan: about \d+ more jobs; `cogtune plan demo demo_lora` shows them$", done.stderr, re.M
    )


def test_a_run_of_a_fresh_clone_starts(clone: Path) -> None:
    """The checks at the start of a run pass before the files that the demo's configs name exist."""
    root = clone.parent / "run"
    shutil.copytree(clone, root)
    done = look(root, ["--cores", "1", "--until", "demo_clips"])
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert (root / "data/demo/.made-from").exists()
    done = look(root, ["-n"])
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "checkpoint scan:" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0 or not namespaces(), reason="needs mounts of one's own (root and unshare -m)")
@pytest.mark.parametrize("words", [["--lint"], ["-n"], ["--list-rules"]], ids=" ".join)
def test_in_a_folder_that_cannot_be_written(clone: Path, words: list[str]) -> None:
    (clone / ".snakemake").mkdir(exist_ok=True)  # Snakemake's own, which it cannot do without
    mount = 'mount --bind "$1" "$1" && mount -t tmpfs none "$1/.snakemake" && mount -o remount,ro,bind "$1" && cd "$1"'
    line = f"{mount} && ! touch x && {shlex.join([sys.executable, '-m', 'snakemake', *words])}"
    command = ["unshare", "-m", "sh", "-c", line, "sh", str(clone)]
    done = subprocess.run(command, cwd=clone, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


@pytest.mark.parametrize("words", [["-n"], ["--lint"], ["--dag"], ["--report", "../report.html"]], ids=" ".join)
def test_after_an_edit_nothing_is_written_before_a_run_starts(project: Project, words: list[str]) -> None:
    """New keys are known, and the scan is done: slices and runs could be written."""
    project.edit("lr: 0.001", "lr: 0.008")
    before = content(project.root)
    try:
        done = look(project.root, words)
        if words[0] != "--report":  # whose page is not there yet
            assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        assert content(project.root) == before
    finally:
        project.edit("lr: 0.008", "lr: 0.001")


def test_jobs_find_their_files_without_hooks(project: Project, tmp_path: Path) -> None:
    """`--no-hooks` leaves out the onstart section, which writes slices and runs otherwise."""
    copy = Project(tmp_path / "project")
    shutil.copytree(project.root, copy.root, symlinks=True, ignore=shutil.ignore_patterns("results", ".snakemake"))
    shutil.rmtree(copy.root / "store/slices")
    copy.snakemake("--no-hooks")
    assert copy.metrics() == project.metrics()
