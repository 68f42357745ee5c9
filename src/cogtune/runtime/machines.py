"""Compute devices, without torch: known GPUs with data sheet figures, and this machine's CPU, measured."""

import os
import re
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cogtune.errors import UserError

_CPU = "CPU"
_MEASURED_SECONDS = 0.15
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_SIZE = re.compile(r"([0-9]{1,5}(?:\.[0-9]{1,3})?) ?GB", re.IGNORECASE)
_DRIVER = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Device:
    """One device. ``half`` and ``single``: dense FLOP/s at bf16 (fp16) and at fp32; ``memory``: bytes, 0 if unknown."""

    name: str
    half: float
    single: float
    memory: float
    gpu: bool = True


@dataclass(frozen=True)
class Machine:
    """``count`` equal devices. A CPU counts as one device with ``cores`` cores; its figures are per core.
    ``assumed``: it is not this one."""

    device: Device
    count: int = 1
    cores: int = 1
    assumed: bool = False

    def rate(self, half: bool) -> float:
        """Peak FLOP/s of one device, or of one core."""
        return self.device.half if half else self.device.single


def _gpu(name: str, half: float, single: float, gigabytes: float) -> Device:
    return Device(name, half * 1e12, single * 1e12, gigabytes * 1e9)


# Data sheets of NVIDIA and AMD: dense tensor-core TFLOP/s at bf16 (V100, T4: fp16), TFLOP/s at fp32, memory.
# Searched in this order in the driver's name, so longer names come before shorter ones.
KNOWN = (
    _gpu("B200", 2250, 80, 180),
    _gpu("GH200", 989, 67, 96),
    _gpu("H200", 989, 67, 141),
    _gpu("H100 PCIe", 756, 51, 80),
    _gpu("H100", 989, 67, 80),
    _gpu("A100-SXM4-40GB", 312, 19.5, 40),
    _gpu("A100-PCIE-40GB", 312, 19.5, 40),
    _gpu("A100", 312, 19.5, 80),
    _gpu("A800", 312, 19.5, 80),
    _gpu("H800", 989, 67, 80),
    _gpu("H20", 148, 44, 96),
    _gpu("A40", 149.7, 37.4, 48),
    _gpu("A30", 165, 10.3, 24),
    _gpu("A10", 125, 31.2, 24),
    _gpu("L40S", 362, 91.6, 48),
    _gpu("L40", 181, 90.5, 48),
    _gpu("L4", 121, 30.3, 24),
    _gpu("L20", 119.5, 59.8, 48),
    _gpu("RTX PRO 6000", 503.8, 126, 96),
    _gpu("RTX 6000 Ada", 364, 91.1, 48),
    _gpu("RTX 5000 Ada", 261, 65.3, 32),
    _gpu("RTX 4500 Ada", 158.6, 39.6, 24),
    _gpu("RTX 4000 Ada", 107, 26.7, 20),
    _gpu("RTX A6000", 154.8, 38.7, 48),
    _gpu("RTX A5500", 136.4, 34.1, 24),
    _gpu("RTX A5000", 111.1, 27.8, 24),
    _gpu("RTX A4500", 94.6, 23.7, 20),
    _gpu("RTX A4000", 76.7, 19.2, 16),
    _gpu("RTX 5090", 209.5, 104.8, 32),
    _gpu("RTX 5080", 112.6, 56.3, 16),
    _gpu("RTX 5070 Ti", 87.9, 43.9, 16),
    _gpu("RTX 4090", 165.2, 82.6, 24),
    _gpu("RTX 4080 SUPER", 104.4, 52.2, 16),
    _gpu("RTX 4080", 97.5, 48.7, 16),
    _gpu("RTX 4070 Ti SUPER", 88.2, 44.1, 16),
    _gpu("RTX 3090 Ti", 80, 40, 24),
    _gpu("RTX 3090", 71, 35.6, 24),
    _gpu("V100", 125, 15.7, 32),
    _gpu("T4", 65, 8.1, 16),
    _gpu("MI300X", 1307, 163.4, 192),
)


def find(name: str) -> Device | None:
    """The known device whose name is in ``name`` (as whole words), or else the first one that contains ``name``; for "CPU",
    a core of this machine; for a size such as "24GB", a GPU of which only the memory is known (rate 0)."""
    if name.upper() == _CPU:
        return cpu()
    if size := _SIZE.fullmatch(name.strip()):
        if not float(size[1]):
            return None
        return Device(f"GPU with {float(size[1]):g} GB", 0.0, 0.0, float(size[1]) * 1e9)
    for device in KNOWN:
        if re.search(rf"\b{re.escape(device.name)}\b", name, re.IGNORECASE):
            return device
    plain_name = _plain(name)
    inside = [device for device in KNOWN if plain_name and plain_name in _plain(device.name)]
    return next(
        (device for device in inside if _plain(device.name).endswith(plain_name)), inside[0] if inside else None
    )


_VENDOR = re.compile(r"^(NVIDIA|GeForce|Tesla|AMD|Instinct)\s+", re.IGNORECASE)
_OF_THE_SAME = re.compile(r"[\s-]+(\d+GB|SXM\d|HBM\d\w?|Generation|OAM)\b", re.IGNORECASE)
"""Words that do not change the rate. PCIe is not among them: such cards are often slower."""
_ALSO = {"A100 PCIe": "A100", "A100-PCIE": "A100", "A30 PCIe": "A30"}


def same(name: str) -> Device | None:
    """The known device that a GPU is, by the driver's name, for figures that must not be wrong: None for a variant with other
    words in its name (Laptop GPU, Max-Q, NVL, a MIG slice), which may be slower."""
    for device in KNOWN:
        if _without_vendor(name).lower() == device.name.lower():
            return device
    rest = _OF_THE_SAME.sub("", _without_vendor(name))
    rest = _ALSO.get(rest, rest)
    return next((device for device in KNOWN if device.name.lower() == rest.lower()), None)


def _without_vendor(name: str) -> str:
    while (rest := _VENDOR.sub("", name)) != name:
        name = rest
    return name.strip()


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def here(environment: Mapping[str, str] | None = None) -> Machine:
    """This machine: the GPUs of its NVIDIA driver that CUDA_VISIBLE_DEVICES allows, else its CPU.

    A GPU that is not in the table keeps its name and has rate 0, which means "unknown".
    """
    names = device_names(environment)
    if names == [_CPU]:
        return Machine(cpu(), cores=len(os.sched_getaffinity(0)))
    return Machine(find(names[0]) or Device(names[0], 0.0, 0.0, 0.0), len(names))


def machine_of(device: str | None, count: int) -> Machine:
    """This machine, or one with ``count`` devices of the given name. Raises UserError for an unknown name."""
    if device is None:
        return here()
    known = find(device)
    if known is None:
        raise UserError(f"--device {device}: unknown GPU; expected one of {known_names()}")
    if known.gpu:
        return Machine(known, count, assumed=True)
    return Machine(known, cores=len(os.sched_getaffinity(0)))


def known_names() -> str:
    """The names of `KNOWN`, for messages."""
    return f"{', '.join([*(device.name for device in KNOWN), _CPU])}, or a size of memory, such as 24GB"


def gpu_count(environment: Mapping[str, str] | None = None) -> int:
    """The number of GPUs that `here` returns; 0 on a machine without one."""
    names = device_names(environment)
    return 0 if names == [_CPU] else len(names)


def device_names(environment: Mapping[str, str] | None = None) -> list[str]:
    """Names of the devices that `here` returns, without measuring."""
    environment = os.environ if environment is None else environment
    names, visible = driver_names(), environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = names[: len([one for one in visible.split(",") if one.strip() and one.strip() != "-1"])]
    return [known.name if (known := find(name)) else name for name in names] or [_CPU]


def driver_names() -> list[str]:
    """Names of the GPUs of this machine, from its NVIDIA driver."""
    names = list[str]()
    for path in sorted(_DRIVER.glob("*/information")):
        lines = path.read_text(errors="replace").splitlines()
        names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return names


@cache
def cpu() -> Device:
    """One core of this CPU: the rate of a matrix product in fp32, measured on one thread; half of it in bf16, as training on
    a CPU without matrix units for it went (`bench/train.py`: 4.7 steps/s instead of 8.2)."""
    with _one_thread():
        import numpy as np

    size = 384
    a = np.ones((size, size), np.float32)
    best, began = float("inf"), time.perf_counter()
    while (started := time.perf_counter()) - began < _MEASURED_SECONDS:
        np.matmul(a, a)
        best = min(best, time.perf_counter() - started)  # the best of many short ones: others may use the CPU too
    rate = 2 * size**3 / best
    return Device(_CPU, rate / 2, rate, float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), gpu=False)


@contextmanager
def _one_thread() -> Generator[None, None, None]:
    """BLAS reads its number of threads when numpy is imported for the first time; on several, one that has to wait for
    its core slows all down tenfold."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
