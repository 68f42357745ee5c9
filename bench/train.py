"""Where a training step's time goes: `python -m bench.train [--json FILE]`, about five minutes on two cores.

Three tables; compare rows of one run only.
1. The loop beside forward, backward and optimizer, as CPU time of one thread (goal: at most 1 % of a step).
2. The optimizer's step, with and without the moving average: as a loop over tensors, with kernels over lists of tensors
   (foreach), and fused, which is what a training uses. Nanoseconds per weight, and bytes of temporary tensors per weight.
   On the GPU if there is one.
3. Steps per second of a whole training with ranks and threads on two cores (--runs 0: without).

The model is the demo's size: 4 layers of 192, 72 video and 16 text tokens, global batch 8, upstream's sft.yaml section, random
caches.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cogtune.data.store import ShardWriter
from cogtune.train.launch import run_ranks
from cogtune.train.optim import AdamWEma
from cogtune.work.load import load_config
from tests.pretend import LiveBytes

REPO = Path(__file__).parents[1]
TINY = REPO / "tests/workflow/tiny.yaml"
NETWORK = "model.network_config.params"
SHAPE = {"T": 3, "C": 16, "H": 8, "W": 12, "text": 16, "width": 64}
OVERRIDES = {
    f"{NETWORK}.num_layers": 4,
    f"{NETWORK}.hidden_size": 192,
    f"{NETWORK}.num_attention_heads": 4,
    f"{NETWORK}.time_embed_dim": 192,
    f"{NETWORK}.in_channels": SHAPE["C"],
    f"{NETWORK}.out_channels": SHAPE["C"],
    f"{NETWORK}.num_frames": 9,
    f"{NETWORK}.latent_height": SHAPE["H"],
    f"{NETWORK}.latent_width": SHAPE["W"],
    f"{NETWORK}.modules.pos_embed_config.params.text_length": SHAPE["text"],
    f"{NETWORK}.modules.patch_embed_config.params.text_hidden_size": SHAPE["width"],
    "model.first_stage_config.params.encoder_config.params.z_channels": SHAPE["C"],
    "model.first_stage_config.params.decoder_config.params.z_channels": SHAPE["C"],
    "model.conditioner_config.params.emb_models.0.params.max_length": SHAPE["text"],
    "data.params.video_size": "[64, 96]",
    "data.params.max_num_frames": 9,
    "args.global_batch_size": 8,
    "args.save_interval": 1_000_000,
}
WAYS = [(1, 2), (2, 1)]
CLIPS = 12


def caches(root: Path) -> None:
    """Random moments and contexts for `CLIPS` pairs."""
    with ShardWriter(root / "latents") as latents, ShardWriter(root / "text") as text:
        for i in range(CLIPS):
            moments = torch.randn(2 * SHAPE["C"], SHAPE["T"], SHAPE["H"], SHAPE["W"])
            latents.add(f"clip{i}", {"moments": moments})
            text.add(f"text{i}", {"context": torch.randn(SHAPE["text"], SHAPE["width"]).bfloat16()})


def plan_of(root: Path, name: str, threads: int, changes: dict[str, Any]) -> dict[str, Any]:
    """The plan of a training in a new folder of ``root``."""
    words = [f"{key}={value}" for key, value in (OVERRIDES | changes).items()]
    values = load_config([TINY], words, check_files=False).values
    folder = root / name
    folder.mkdir()
    return {
        "key": name,
        "config": values,
        "start": {"network_config": values["model"]["network_config"], "seed": 1},
        "folder": str(folder),
        "latents": str(root / "latents"),
        "text": str(root / "text"),
        "pairs": [{"clip": f"clip{i}", "caption_id": f"text{i}"} for i in range(CLIPS)],
        "validation_sets": {},
        "threads": threads,
    }


def overhead_rows(root: Path, steps: int, stage: int, precisions: list[str]) -> Iterator[dict[str, Any]]:
    """Milliseconds of each part of a step (`loop_time`), and the share of the loop's own work."""
    for precision in precisions:
        for optimizer in ("AdamW", "FusedEmaAdam"):
            changes = {
                "args.train_iters": steps,
                "deepspeed.train_micro_batch_size_per_gpu": 8,
                "deepspeed.bf16.enabled": _is_bf16(precision),
                "deepspeed.optimizer.type": optimizer,
                "deepspeed.zero_optimization.stage": stage,
            }
            plan = plan_of(root, f"overhead-{precision}-{optimizer}", 1, changes)
            path = Path(plan["folder"]) / "plan.json"
            path.write_text(json.dumps(plan))
            command = [sys.executable, "-m", "bench.loop_time", str(path)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
            lines = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            if not lines:
                sys.exit(done.stderr[-3000:])
            parts = json.loads(lines[0])
            yield (
                {"precision": precision, "optimizer": optimizer}
                | parts
                | {"overhead": parts["rest"] / sum(parts.values())}
            )


KERNELS = {
    "loop": {"fused": False, "foreach": False},
    "foreach": {"fused": False, "foreach": True},
    "fused": {"fused": True},
}


def optimizer_rows(count: int, runs: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """One step over ``count`` weights in two tensors, as ZeRO has them: seconds and temporary bytes, per weight."""
    for average in (False, True):
        for kernel, options in KERNELS.items():
            sizes = (count - count // 100, count // 100)
            weights = [torch.nn.Parameter(torch.randn(size, device=device)) for size in sizes]
            for p in weights:
                p.grad = torch.randn_like(p)
            make: Any = AdamWEma if average else torch.optim.AdamW
            optimizer = make(weights, lr=1e-4, **options)
            optimizer.step()
            with LiveBytes() as live:
                optimizer.step()
            seconds = min(seconds_of(optimizer, device) for _ in range(max(1, runs)))
            yield {
                "average": average,
                "kernel": kernel,
                "ns_per_weight": 1e9 * seconds / count,
                "bytes_per_weight": round(live.peak / count, 3),
            }


def seconds_of(optimizer: torch.optim.Optimizer, device: torch.device) -> float:
    """Of one step; on the CPU the CPU time of this thread."""
    gpu = device.type == "cuda"
    clock = time.perf_counter if gpu else time.thread_time
    if gpu:
        torch.cuda.synchronize()
    started = clock()
    optimizer.step()
    if gpu:
        torch.cuda.synchronize()
    return clock() - started


def _is_bf16(precision: str) -> str:
    return str(precision == "bf16").lower()


def rate_rows(root: Path, steps: int, stage: int, precisions: list[str], runs: int) -> Iterator[dict[str, Any]]:
    """Of whole trainings: the median of ``runs``, and their range."""
    for precision in precisions:
        for ranks, threads in WAYS:
            changes = {
                "args.train_iters": steps,
                "deepspeed.train_micro_batch_size_per_gpu": 8 // ranks,
                "deepspeed.bf16.enabled": _is_bf16(precision),
                "deepspeed.zero_optimization.stage": stage,
            }
            summaries = list[dict[str, Any]]()
            for run in range(runs):
                plan = plan_of(root, f"{ranks}x{threads}-{precision}-{run}", threads, changes)
                folder = Path(plan["folder"])
                run_ranks(plan, ranks, threads, folder / "log", lambda line: None)
                summaries.append(json.loads((folder / "final/summary.json").read_text()))
            rates = [summary["steps_per_second"] for summary in summaries]
            yield {
                "ranks": ranks,
                "threads": threads,
                "precision": precision,
                "steps_per_second": statistics.median(rates),
                "least": min(rates),
                "most": max(rates),
                "data_wait": max(summary["data_wait_fraction"] for summary in summaries),
                "host_mib": max(summary["peak_memory"]["host_mib"] for summary in summaries),
            }


def table(title: str, rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print rows as they come; returns them."""
    print(f"\n{title}")
    made = list[dict[str, Any]]()
    for row in rows:
        if not made:
            print("  ".join(f"{name:>{max(12, len(name))}}" for name in row))
        cells = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values())
        print("  ".join(f"{cell:>{max(12, len(name))}}" for cell, name in zip(cells, row, strict=True)), flush=True)
        made.append(row)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--runs", type=int, default=3, help="trainings of each row of the third table")
    parser.add_argument("--stage", type=int, default=2, help="ZeRO stage")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--weights", type=int, default=20_000_000, help="of the optimizer's table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, one thread"
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        caches(root)
        overhead = overhead_rows(root, arguments.steps, arguments.stage, arguments.precisions)
        results = {"overhead": table("CPU milliseconds of a step", overhead)}
        optimizers = optimizer_rows(arguments.weights, arguments.runs, device)
        results["optimizer"] = table(f"one step of AdamW over {arguments.weights:,} fp32 weights, {name}", optimizers)
        if arguments.runs:
            rates = rate_rows(root, arguments.steps, arguments.stage, arguments.precisions, arguments.runs)
            results["rates"] = table("steps per second on two cores", rates)
    if arguments.json:
        arguments.json.write_text(json.dumps({"torch": torch.__version__, "device": name} | results, indent=1) + "\n")


if __name__ == "__main__":
    main()
