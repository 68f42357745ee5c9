"""Programs of a cluster that print what the real ones printed."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """``install(name, script)`` puts a shell script on PATH, before the programs of this machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def add(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return add


@pytest.fixture
def bare_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH with env, sh and cat only: neither Slurm nor a driver is installed."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("env", "sh", "cat"):
        (folder / name).symlink_to(f"/usr/bin/{name}")
    (folder / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(folder))
