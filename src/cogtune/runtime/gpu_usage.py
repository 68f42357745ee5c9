"""How busy the GPUs were while a job ran, from `nvidia-smi`; nothing on a machine without a GPU."""

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cogtune.runtime.machines import driver_names

_EVERY_SECONDS = 5
_ROW = re.compile(r"\s*([0-9]+),\s*([0-9]+)\s*")


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

    def add(self, line: str) -> None:
        """One GPU at one time: `37, 12345`. GPUs that are split (MIG) answer [N/A]."""
        if match := _ROW.fullmatch(line):
            self.busy.append(int(match[1]))
            self.used_mib.append(int(match[2]))

    def usage(self) -> GpuUsage:
        if not self.busy:
            return GpuUsage()
        return GpuUsage(round(sum(self.busy) / len(self.busy) / 100, 4), float(max(self.used_mib)))


@contextmanager
def watched_gpus(seconds: int = _EVERY_SECONDS) -> Generator[Callable[[], GpuUsage]]:
    """Sample the visible GPUs every ``seconds`` inside the block; the function returns the usage so far."""
    samples = _Samples()
    if not driver_names() or shutil.which("nvidia-smi") is None:
        yield samples.usage
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    command = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", f"-l{seconds}"]
    process = subprocess.Popen(
        [*command, *(["-i", visible] if visible else [])],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    reader = threading.Thread(target=_read, args=(process, samples), name="gpu-usage", daemon=True)
    reader.start()
    try:
        yield samples.usage
    finally:
        process.kill()
        process.wait()
        reader.join()


def _read(process: subprocess.Popen[str], samples: _Samples) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            samples.add(line)
