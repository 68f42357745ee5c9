"""Weights of the Hub in the workflow: parsing, `-n`, `--lint` and jobs read the pinned copies and ask no server."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub import pin, serving
from tests.workflow.project import Project, add_clip, environment

pytestmark = pytest.mark.workflow


def test_pinned_weights_are_read_without_the_network(untouched: Project, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    shutil.copytree(untouched.root, project.root, symlinks=True)
    project.edit("assets/3d-vae.pt", "hf://me/vae/3d-vae.pt")
    project.edit("assets/t5", "hf://me/t5")
    refused = project.snakemake("-n", check=False)
    assert refused.returncode != 0
    told = refused.stdout + refused.stderr
    for path in ("hf://me/vae/3d-vae.pt", "hf://me/t5"):
        assert told.count(f"{path}: not in weights/pins.json; run `cogtune weights get {path}`") == 1, told
    for repository, source in (("me/vae", "3d-vae.pt"), ("me/t5", "t5")):
        pin(project.root, repository, project.root / "assets" / source)
    shutil.rmtree(project.root / "assets")
    with serving() as hub:
        online = {name: value for name, value in environment().items() if name != "HF_HUB_OFFLINE"}

        def snakemake(*words: str) -> None:
            command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nolock", *words]
            asking = online | {"HF_ENDPOINT": f"http://127.0.0.1:{hub.port}", "HF_HOME": os.fspath(tmp_path / "home")}
            done = subprocess.run(command, cwd=project.root, env=asking, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

        before = project.receipts()
        add_clip(project.root / "data/train", "fresh", 77, "a caption that was not there before")
        snakemake("-n")
        snakemake("--lint")
        snakemake("--until", "scan")
        snakemake("--until", "latents", "text")
        made = {receipt["stage"]: receipt for name, receipt in project.receipts().items() if name not in before}
        assert [made[stage]["made"] for stage in ("latents", "text")] == [1, 1], (
            "the other rows have the keys of local files"
        )
        assert all(made[stage]["reused"] > 0 for stage in ("latents", "text"))
        assert hub.requests == []
