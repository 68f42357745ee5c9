"""One rank of the all-reduce of `cogtune doctor`: `python -m cogtune.doctor.all_reduce_rank PARENT RANK RANKS FILE SECONDS`.

Rank 0 prints the rate in bytes per second.
"""

import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

from cogtune.runtime.children import die_with_parent
from cogtune.runtime.devices import device_for

_NUMBERS = 8 * 2**20
"""32 MiB in fp32: long enough to measure a network, short on gloo."""
_TIMES = 3


def main(parent: int, rank: int, ranks: int, rendezvous: str, seconds: float) -> None:
    die_with_parent(parent)
    device = device_for(rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "gloo" if device.type == "cpu" else "nccl",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=seconds),
    )
    expected, best = ranks * (ranks + 1) / 2, float("inf")
    for _ in range(_TIMES):
        values = torch.full((_NUMBERS,), float(rank + 1), device=device)
        started = time.perf_counter()
        dist.all_reduce(values)
        lowest, highest = float(values.min()), float(values.max())  # waits for the GPU
        best = min(best, time.perf_counter() - started)
        if (lowest, highest) != (expected, expected):
            raise SystemExit(f"rank {rank}: sum between {lowest} and {highest}; expected {expected}")
    dist.destroy_process_group()
    if rank == 0:
        print(_NUMBERS * 4 / best)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], float(sys.argv[5]))
