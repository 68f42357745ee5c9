"""One Slurm for all tests of a session. Where it cannot start, they are skipped; in CI (CI=true) they fail."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, NoCapabilityError, NoSlurmError, missing
from tests.workflow.project import Project, environment, lay_out

ENCODE = """
import sys
from cogtune.__main__ import main
for stage in ("preprocess", "latents", "text"):
    if code := main([stage, "--base", "config/tiny.yaml"]):
        sys.exit(code)
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[Cluster]:
    try:
        if (reason := missing()) is not None:
            raise reason
        started = Cluster()
    except NoSlurmError as reason:
        # No package and no change to the code gives a container a capability that its host denies.
        if os.environ.get("CI") == "true" and not isinstance(reason, NoCapabilityError):
            pytest.fail(f"Slurm did not start: {reason}", pytrace=False)
        pytest.skip(f"no Slurm here: {reason}")
    yield started
    started.stop()


@pytest.fixture
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    """The session's Slurm with an empty queue; what a test leaves in it is cancelled."""
    yield running_cluster
    running_cluster.cancel_all()


@pytest.fixture(scope="session")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project before its first run, to be copied."""
    return lay_out(tmp_path_factory.mktemp("laid-out"))


@pytest.fixture(scope="session")
def local(laid_out: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project after a run on this machine."""
    root = Path(shutil.copytree(laid_out.root, tmp_path_factory.mktemp("local") / "project"))
    command = [sys.executable, "-m", "snakemake", "--cores", "2"]
    done = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-8000:]
    return Project(root)


@pytest.fixture
def fresh(running_cluster: Cluster, laid_out: Project, tmp_path: Path) -> Project:
    """The tiny project before its first run."""
    return Project(Path(shutil.copytree(laid_out.root, tmp_path / "fresh")))


@pytest.fixture(scope="session")
def encoded(running_cluster: Cluster, laid_out: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project with its clips and captions encoded, before its training."""
    project = Project(Path(shutil.copytree(laid_out.root, tmp_path_factory.mktemp("encoded") / "project")))
    done = subprocess.run(
        [sys.executable, "-c", ENCODE], cwd=project.root, env=environment(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-8000:]
    return project
