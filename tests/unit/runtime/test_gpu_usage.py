"""How busy GPUs were, with a stand-in for the functions of NVIDIA's library."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from cogtune.runtime import machines
from cogtune.runtime.gpu_usage import GpuUsage, watched_gpus

MIB = 2**20


class Driver:
    """Two GPUs, which answer in turn what ``samples`` says: (busy per cent, MiB in use), or None if they do not say."""

    def __init__(self) -> None:
        self.samples: list[tuple[int, int] | None] = []
        self.asked: set[int | str] = set()
        self._answers: Iterator[tuple[int, int] | None] = iter(())
        self._now: tuple[int, int] = (0, 0)

    def answer(self, *samples: tuple[int, int] | None) -> None:
        self.samples, self._answers = list(samples), iter(samples)

    def rates(self, handle: int | str) -> SimpleNamespace:
        self.asked.add(handle)
        sample = next(self._answers, None)
        if sample is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        self._now = sample
        return SimpleNamespace(gpu=sample[0])

    def memory(self, handle: int | str) -> SimpleNamespace:
        return SimpleNamespace(used=self._now[1] * MIB)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\n")
    monkeypatch.setattr(machines, "_DRIVER", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver = Driver()
    stand_ins = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetUtilizationRates": driver.rates,
        "nvmlDeviceGetMemoryInfo": driver.memory,
    }
    for name, stand_in in stand_ins.items():
        assert callable(getattr(pynvml, name))
        monkeypatch.setattr(pynvml, name, stand_in)
    return driver


def usage(expected: GpuUsage) -> GpuUsage:
    """What is known once it is as expected, or after some seconds."""
    with watched_gpus(0.001) as read:
        deadline = time.monotonic() + 20
        while read() != expected and time.monotonic() < deadline:
            time.sleep(0.01)
        return read()


def test_the_mean_share_and_the_largest_memory(driver: Driver) -> None:
    driver.answer((100, 40000), (50, 12345), (0, 81000), (50, 7))
    assert usage(GpuUsage(0.5, 81000.0)) == GpuUsage(0.5, 81000.0)
    assert driver.asked == {0, 1}


@pytest.mark.parametrize(
    ("visible", "asked"), [("1", {1}), ("1,-1", {1}), ("GPU-9f3a, 0", {"GPU-9f3a", 0}), ("", set())]
)
def test_only_the_visible_gpus_are_asked(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, visible: str, asked: set[int | str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    driver.answer((100, 5), (100, 5))
    expected = GpuUsage(1.0, 5.0) if asked else GpuUsage()
    assert usage(expected) == expected
    assert driver.asked == asked


def test_gpus_that_do_not_say(driver: Driver) -> None:
    driver.answer(None)
    with watched_gpus() as read:
        assert read() == GpuUsage()
    assert read() == GpuUsage()


def test_a_driver_that_fails(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    monkeypatch.setattr(pynvml, "nvmlInit", fails)
    with watched_gpus() as read:
        assert read() == GpuUsage()


def test_nothing_is_asked_without_a_driver(driver: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machines, "_DRIVER", tmp_path / "absent")
    with watched_gpus() as read:
        assert read() == GpuUsage()
    assert not driver.asked
