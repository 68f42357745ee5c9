"""How busy GPUs were, from a stand-in for nvidia-smi that prints as the real one does."""

import os
import time
from pathlib import Path

import pytest

from cogtune.runtime import machines
from cogtune.runtime.gpu_usage import GpuUsage, watched_gpus


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two GPUs of a driver; returns the file of nvidia-smi, first on PATH."""
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
        (tmp_path / "gpus" / name / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\n")
    monkeypatch.setattr(machines, "_DRIVER", tmp_path / "gpus")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return tmp_path / "bin/nvidia-smi"


def install(program: Path, lines: str) -> None:
    """It records its arguments, prints ``lines``, and then goes on until it is stopped, as with -l."""
    program.write_text(f"#!/bin/sh\necho \"$@\" > {program}.arguments\nprintf '{lines}'\nexec sleep 60\n")
    program.chmod(0o755)


def usage(expected: GpuUsage) -> GpuUsage:
    """What is known once it is as expected, or after some seconds."""
    with watched_gpus() as read:
        deadline = time.monotonic() + 20
        while read() != expected and time.monotonic() < deadline:
            time.sleep(0.01)
        return read()


def test_the_mean_share_and_the_largest_memory(driver: Path) -> None:
    install(driver, "100, 40000\\n50, 12345\\n0, 81000\\n50, 7\\n")
    assert usage(GpuUsage(0.5, 81000.0)) == GpuUsage(0.5, 81000.0)
    assert "-i" not in Path(f"{driver}.arguments").read_text().split()


def test_only_the_visible_gpus_are_asked_for(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    install(driver, "100, 5\\n")
    assert usage(GpuUsage(1.0, 5.0)) == GpuUsage(1.0, 5.0)
    assert Path(f"{driver}.arguments").read_text().split()[-2:] == ["-i", "1"]


@pytest.mark.parametrize("lines", ["[N/A], [N/A]\\n", "No devices were found\\n", ""])
def test_gpus_that_do_not_say(driver: Path, lines: str) -> None:
    install(driver, lines)
    with watched_gpus() as read:
        assert read() == GpuUsage()
    assert read() == GpuUsage()


def test_nothing_is_started_without_a_driver(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "_DRIVER", driver.parent / "absent")
    install(driver, "100, 5\\n")
    with watched_gpus() as read:
        assert read() == GpuUsage()
    assert not Path(f"{driver}.arguments").exists()
