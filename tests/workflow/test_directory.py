"""The README's plain command: after a SIGKILL it simply runs again, and beside a running one it is refused."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cogtune.runtime.locks import hold_lock
from tests.workflow.project import Project, environment

pytestmark = pytest.mark.workflow
PLAIN = [sys.executable, "-m", "snakemake", "--cores", "1"]


def plain(project: Project) -> subprocess.CompletedProcess[str]:
    return subprocess.run(PLAIN, cwd=project.root, env=environment(), capture_output=True, text=True, timeout=240)


def test_killed_and_run_again(project: Project, tmp_path: Path) -> None:
    copy = Project(tmp_path / "project")
    shutil.copytree(project.root, copy.root, symlinks=True, ignore=shutil.ignore_patterns("results", ".snakemake"))
    (prepared,) = (copy.root / "store/preprocess").iterdir()
    log = tmp_path / "first.log"
    with hold_lock(copy.root / f"store/locks/preprocess-{prepared.name}.lock"), log.open("w") as stream:
        first = subprocess.Popen(
            PLAIN, cwd=copy.root, env=environment(), stdout=stream, stderr=stream, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while "which holds the lock of preprocess" not in log.read_text():
            assert first.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.1)
        second = plain(copy)
        assert second.returncode == 1
        assert f"another snakemake (process {first.pid}) is running in {copy.root}" in second.stderr
        assert "Traceback" not in second.stderr
        assert first.poll() is None
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    again = plain(copy)
    assert again.returncode == 0, again.stderr[-4000:]
    assert copy.metrics() == project.metrics()
