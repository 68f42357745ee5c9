"""A complete store that can only be read serves for plans, dry runs and reports into a results folder of one's own."""

import functools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.workflow.project import Project, environment

pytestmark = pytest.mark.workflow
SNAKEMAKE = f"{shlex.quote(sys.executable)} -m snakemake --cores 2 --nolock"
COGTUNE = f"{shlex.quote(sys.executable)} -m cogtune"


@functools.cache
def namespaces() -> bool:
    """Whether mounts of our own can be made, which nobody else sees."""
    try:
        return not subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode
    except FileNotFoundError:
        return False


@contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """While inside, nobody but root may write below ``folder``."""
    paths = [folder, *(path for path in folder.rglob("*") if not path.is_symlink())]
    modes = {path: path.stat().st_mode for path in paths}
    try:
        for path, mode in modes.items():
            path.chmod(mode & 0o555)
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def run(command: str, at: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line in ``at`` while ``folder``, below the tests' own, can only be read."""
    words = ["sh", "-c", command]
    if os.geteuid():
        with without_rights(folder):
            return subprocess.run(words, cwd=at, env=environment(), capture_output=True, text=True, timeout=300)
    if not namespaces():
        pytest.skip("root may write everywhere, and this machine allows no mounts of one's own (unshare -m)")
    mount = f'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && cd {shlex.quote(str(at))} && {command}'
    words = ["unshare", "-m", "sh", "-c", mount, "sh", str(folder)]
    return subprocess.run(words, cwd=at, env=environment(), capture_output=True, text=True, timeout=300)


def content(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file."""
    found = {str(path): path.stat() for path in root.rglob("*") if path.is_file()}
    return {name: (status.st_size, status.st_mtime_ns) for name, status in found.items()}


@pytest.fixture
def mine(project: Project, tmp_path: Path) -> Project:
    """A folder with the same data and a copy of the finished store, named ``theirs``, and no results."""
    shutil.copytree(
        project.root, tmp_path / "mine", ignore=shutil.ignore_patterns("store", "results", ".snakemake", "data")
    )
    (tmp_path / "mine/data").symlink_to(project.root / "data")
    shutil.copytree(project.root / "store", tmp_path / "theirs")
    text = f"store_dir: {tmp_path}/theirs\nranks: 2\nexperiments:\n  tiny:\n    base: [config/tiny.yaml]\n"
    (tmp_path / "mine/config/config.yaml").write_text(text)
    return Project(tmp_path / "mine")


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failed command ends with."""
    said = done.stdout + done.stderr
    assert done.returncode == 1, said[-4000:]
    assert "Traceback" not in said, said[-4000:]
    (line,) = {line for line in said.splitlines() if line.startswith("cogtune: ")}
    return line


def test_a_finished_store_needs_no_writing(project: Project, mine: Project, tmp_path: Path) -> None:
    store = tmp_path / "theirs"
    before = content(tmp_path)
    planned = run(f"{COGTUNE} plan", mine.root, store)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert content(tmp_path) == before, "a plan writes nothing"
    for command in (f"{SNAKEMAKE} -n", SNAKEMAKE):
        done = run(command, mine.root, store)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert mine.metrics() == project.metrics()
    assert (mine.root / "results/tiny/report.html").is_file()
    assert "Nothing to be done" in run(SNAKEMAKE, mine.root, store).stderr
    assert content(store).items() <= before.items()
    assert len(content(store)) == len([name for name in before if name.startswith(f"{store}/")])


def test_by_hand_each_stage_finds_its_work_complete(mine: Project, tmp_path: Path) -> None:
    """None of them writes what other stages need: the store holds no slice of a report that is named by-hand."""
    store = tmp_path / "theirs"
    before = content(store)
    stages = ("scan", "preprocess", "latents", "text", "train", "export", "sample", "evaluate")
    lines = [f"{COGTUNE} {stage} --base config/tiny.yaml" for stage in stages]
    done = run(" && ".join(lines), mine.root, store)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    for stage in stages:
        assert done.stderr.count(f"[{stage}] cached: made 0") == 1
    assert content(store) == before
    assert sorted(name.partition("-")[0] for name in mine.receipts()) == sorted(stages)
    done = run(f"{COGTUNE} report --base config/tiny.yaml --name tiny", mine.root, store)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert mine.metrics()
    assert content(store) == before
    line = sentence(run(f"{COGTUNE} train --base config/tiny.yaml -- args.seed=12", mine.root, store))
    assert f"{store}/" in line
    assert "store_dir" in line


def test_what_is_not_in_it_is_said(mine: Project, tmp_path: Path) -> None:
    """Other data: its scan has to be written."""
    data = (mine.root / "data").resolve()
    (mine.root / "data").unlink()
    shutil.copytree(data, mine.root / "data")
    assert run(f"{SNAKEMAKE} -n", mine.root, tmp_path / "theirs").returncode == 0, "a dry run writes nothing"
    for command in (f"{COGTUNE} plan", SNAKEMAKE, f"{COGTUNE} train --base config/tiny.yaml"):
        line = sentence(run(command, mine.root, tmp_path / "theirs"))
        assert f"{tmp_path}/theirs/" in line, line
        assert "store_dir" in line, line
        assert "results_dir" not in line, line


def test_a_results_folder_is_named_as_one(mine: Project, tmp_path: Path) -> None:
    (mine.root / "results").mkdir()
    line = sentence(run(SNAKEMAKE, mine.root, mine.root / "results"))
    assert "results/" in line, line
    assert "results_dir" in line, line
    assert "store_dir" not in line, line
