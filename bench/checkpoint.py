"""What a checkpoint costs: `python -m bench.checkpoint [--ranks 2] [--stage 2] [--millions 50]`, half a minute.

A network of linear layers is trained in bf16 with the moving average on the CPU. Printed for each rank: bytes of the
checkpoint per trained weight, the seconds for which training waits, the seconds until it is on disk, the memory that grows
meanwhile, and the seconds to load it under the same ranks. At the end the memory that grows while the final weights are
written.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

WIDTH = 2048


def section(stage: int) -> dict[str, Any]:
    """The `deepspeed` section."""
    optimizer = {"type": "FusedEmaAdam", "params": {}}
    return {"zero_optimization": {"stage": stage}, "bf16": {"enabled": True}, "optimizer": optimizer}


def measure(folder: Path, rank: int, ranks: int, stage: int, layers: int) -> dict[str, float]:
    """Train a step, write a checkpoint, load it, write the final weights; on one rank."""
    from torch.distributed import FileStore  # pyright: ignore[reportPrivateImportUsage]

    from cogtune.train.checkpoint import Checkpoints
    from cogtune.train.engine import RankInfo, build_engine, connect, deepspeed_config, take_step
    from cogtune.train.optimizers import make_optimizer
    from cogtune.train.result import write_weights
    from cogtune.work.batches import BatchPlan

    torch.set_num_threads(1)
    connect(RankInfo(rank, ranks, rank), f"file://{folder}/meeting")
    module = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers)))
    optimizer = make_optimizer(module, section(stage)["optimizer"], 0.0, torch.device("cpu"))
    engine = build_engine(
        module, optimizer, deepspeed_config(section(stage), BatchPlan(1, 1, ranks), torch.device("cpu"))
    )
    store = FileStore(str(folder / "store"), ranks)
    checkpoints = Checkpoints(engine, folder / "checkpoints", keep=1, store=store)
    engine.backward(engine(torch.ones(1, WIDTH, dtype=torch.bfloat16)).float().square().mean())
    take_step(engine, 1e-4)
    with Memory() as memory:
        started = time.perf_counter()
        checkpoints.save(1)
        waited = time.perf_counter() - started
        checkpoints.wait()
        written = time.perf_counter() - started
    started = time.perf_counter()
    checkpoints.load_newest()
    loaded = time.perf_counter() - started
    with Memory() as at_end:
        write_weights(engine, engine.module, folder / "final", {}, first=rank == 0)
    return {
        "waits, s": waited, "on disk, s": written, "memory, MB": memory.grown, "loads, s": loaded,
        "final weights, MB": at_end.grown,
    }  # fmt: skip


class Memory:
    """How far this process grows within the context, in MB: its peak, read 100 times a second."""

    def __enter__(self) -> "Memory":
        import threading

        self.grown, self._ended = 0.0, threading.Event()
        process = psutil.Process()
        before = process.memory_info().rss

        def watch() -> None:
            while not self._ended.wait(0.01):
                self.grown = max(self.grown, (process.memory_info().rss - before) / 1e6)

        self._thread = threading.Thread(target=watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.checkpoint", description="What a checkpoint costs.")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--stage", type=int, default=2, help="ZeRO's stage")
    parser.add_argument("--millions", type=float, default=50, help="trained weights")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    layers = max(1, round(arguments.millions * 1e6 / (WIDTH * WIDTH + WIDTH)))
    if arguments.folder is not None:
        row = measure(arguments.folder, int(os.environ["RANK"]), arguments.ranks, arguments.stage, layers)
        (arguments.folder / f"{os.environ['RANK']}.json").write_text(json.dumps(row))
        sys.stdout.flush()
        os._exit(0)  # threads of the communication library abort now and then when the interpreter cleans up
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        command = [sys.executable, "-m", "bench.checkpoint", *sys.argv[1:], "--folder", str(folder)]
        common = os.environ | {"WORLD_SIZE": str(arguments.ranks), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        started = [
            subprocess.Popen(
                command, env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.DEVNULL
            )
            for rank in range(arguments.ranks)
        ]
        if any(process.wait() for process in started):
            sys.exit("a rank failed; see above")
        size = sum(path.stat().st_size for path in (folder / "checkpoints").rglob("*") if path.is_file())
        weights = layers * (WIDTH * WIDTH + WIDTH)
        print(f"{weights / 1e6:.0f} million weights, {arguments.ranks} ranks, ZeRO stage {arguments.stage}: ", end="")
        print(f"{size / 1e6:.0f} MB, {size / weights:.2f} bytes per weight")
        for rank in range(arguments.ranks):
            row = json.loads((folder / f"{rank}.json").read_text())
            print(f"rank {rank}: " + "; ".join(f"{name} {value:.2f}" for name, value in row.items()))


if __name__ == "__main__":
    main()
