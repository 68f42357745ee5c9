"""A run that is stopped on request: the last line says how to go on, and every experiment shows the training."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cogtune.runtime.stopping import RESUME
from tests.workflow.project import Project, environment

pytestmark = pytest.mark.workflow
SHARING = """ranks: 1
experiments:
  tiny:
    base: [config/tiny.yaml]
  other:
    base: [config/tiny.yaml]
    set: ["args.sampling_controls=[base]"]
"""


@pytest.fixture
def sharing(untouched: Project, tmp_path: Path) -> Project:
    """Two experiments that share a training of many steps, before it."""
    copy = Project(tmp_path / "project")
    shutil.copytree(untouched.root, copy.root, symlinks=True)
    copy.edit("train_iters: 6", "train_iters: 100000")
    (copy.root / "config/config.yaml").write_text(SHARING)
    return copy


def stopped_run(project: Project) -> str:
    """Run both experiments, and press Ctrl-C when the training has made a step; what the terminal shows."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # children of a background job would ignore it
    finished = set((project.root / "store/train").glob("*/log.jsonl"))
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--nolock", "experiment_tiny", "experiment_other"]
    with (project.root / "terminal.txt").open("w") as terminal:
        process = subprocess.Popen(
            command, cwd=project.root, env=environment(), stdout=terminal, stderr=terminal, start_new_session=True
        )
        deadline = time.monotonic() + 180
        while set((project.root / "store/train").glob("*/log.jsonl")) == finished and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=120) == 1
    return (project.root / "terminal.txt").read_text()


def test_ctrl_c_ends_in_one_sentence(sharing: Project) -> None:
    terminal = stopped_run(sharing)
    assert terminal.rstrip().endswith(f"is saved. {RESUME}"), terminal[-3000:]
    assert terminal.count(RESUME) == 1
    for noise in ("Traceback", "RuleException", "WorkflowError", "Error in rule", "CalledProcessError"):
        assert noise not in terminal
    assert terminal.count("\nresults: results/tiny, results/other\n") == 1
    for name in ("tiny", "other"):
        folder = sharing.root / "results" / name
        assert "of 100,000" in (folder / "training.html").read_text()
        assert RESUME in (folder / "training.log").read_text()
        assert list((folder / "checkpoints").glob("step-*"))
