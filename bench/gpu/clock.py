"""Seconds and peak memory of a call, and the kernels that it spends its time in."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Run = Callable[[], object]


@dataclass(frozen=True)
class Measured:
    """``seconds``: median of a call. ``peak``: bytes at the highest point, and ``before``: those allocated before it; both
    None on a CPU, where torch does not count."""

    seconds: float
    peak: int | None
    before: int | None


def measure(run: Run, device: torch.device, runs: int, warm_up: Run | None = None) -> Measured | None:
    """The median of ``runs`` calls after ``warm_up`` (``run`` itself if None); None if the device's memory does not suffice."""
    on_gpu, seconds, peak, before = device.type == "cuda", list[float](), 0, 0
    try:
        (warm_up or run)()
        for _ in range(runs):
            if on_gpu:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            started = time.perf_counter()
            run()
            if on_gpu:
                torch.cuda.synchronize()
                peak = torch.cuda.max_memory_allocated()
            seconds.append(time.perf_counter() - started)
    except torch.cuda.OutOfMemoryError:
        return None
    return Measured(statistics.median(seconds), peak if on_gpu else None, before if on_gpu else None)


def kernels(run: Run, device: torch.device, rows: int = 25) -> str:
    """A table of the operators in which a call of ``run`` spends its time, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        run()
        if on_gpu:
            torch.cuda.synchronize()
    order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=order, row_limit=rows, max_name_column_width=80)
