"""How busy the GPUs were while a job ran, from NVIDIA's management library; nothing on a machine without a GPU."""

# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false
# pynvml has no types.

import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pynvml

from cogtune.runtime.machines import driver_names

_EVERY_SECONDS = 2.0


@dataclass(frozen=True)
class GpuUsage:
    """``busy``: share of the time in which a kernel ran, 0 to 1, mean over the visible GPUs; ``peak_mib``: the most memory in
    use on one of them, by all processes. None without a GPU, or if it does not say."""

    busy: float | None = None
    peak_mib: float | None = None


@dataclass
class _Samples:
    busy: list[int] = field(default_factory=list[int])
    used_mib: list[int] = field(default_factory=list[int])

    def add(self, handle: Any) -> None:
        """One GPU at one time. A GPU that is split (MIG) does not say how busy it is."""
        try:
            busy, used = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu, pynvml.nvmlDeviceGetMemoryInfo(handle).used
        except pynvml.NVMLError:
            return
        self.busy.append(int(busy))
        self.used_mib.append(int(used) // 2**20)

    def usage(self) -> GpuUsage:
        if not self.busy:
            return GpuUsage()
        return GpuUsage(round(sum(self.busy) / len(self.busy) / 100, 4), float(max(self.used_mib)))


@contextmanager
def watched_gpus(seconds: float = _EVERY_SECONDS) -> Generator[Callable[[], GpuUsage]]:
    """Sample the visible GPUs every ``seconds`` inside the block; the function returns the usage so far."""
    samples, handles, stop = _Samples(), _visible(), threading.Event()
    if not handles:
        yield samples.usage
        return
    thread = threading.Thread(target=_sample, args=(samples, handles, seconds, stop), name="gpu-usage", daemon=True)
    thread.start()
    try:
        yield samples.usage
    finally:
        stop.set()
        thread.join()


def _sample(samples: _Samples, handles: list[Any], seconds: float, stop: threading.Event) -> None:
    while True:
        for handle in handles:
            samples.add(handle)
        if stop.wait(seconds):
            return


def _visible() -> list[Any]:
    """Handles of the GPUs in CUDA_VISIBLE_DEVICES, by default of all; none without a driver or if it fails."""
    if not driver_names():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        pynvml.nvmlInit()
        if visible is None:
            return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [_handle(name.strip()) for name in visible.split(",") if name.strip() not in ("", "-1")]
    except (pynvml.NVMLError, ValueError):
        return []


def _handle(name: str) -> Any:
    """Of an index or a UUID (GPU-…)."""
    if name.isdecimal():
        return pynvml.nvmlDeviceGetHandleByIndex(int(name))
    return pynvml.nvmlDeviceGetHandleByUUID(name)
