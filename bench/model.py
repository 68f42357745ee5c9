"""DiT and VAE against diffusers with the same weights, time and peak memory: `python -m bench.model [--runs 5]`.

Two processes hold one implementation each and take turns, so that a slow minute of the machine hits both. A run is the
median of three turns; each run has processes of its own, since how one's memory happens to lie speeds it up or slows it
down by some per cent for as long as it lives. Thirteen cases take half an hour on two cores. Peak memory is what a
process grows by during one call: on a CPU the high-water mark of its resident memory, in processes that give freed
memory back at once; on a GPU torch's peak of allocated memory. Shapes: bench/shapes.yaml.

A training step has a row for each policy of args.checkpoint_activations; diffusers has two ways, and is compared with its
checkpointing for full and attention, without it for selective and none. On a CPU a step shall take at most 1.10 times as
long as diffusers', and selective, the default, half of its memory. It is a report: nothing fails.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from cogtune.config.schema.checkpointing import Policy

ROOT = Path(__file__).parents[1]
KINDS = {
    "dit": ("forward", *(f"forward + backward, {policy}" for policy in Policy)),
    "vae": ("encode, whole clip", "encode, 8 frames at a time", "decode"),
}
SIDES = ("cogtune", "diffusers")
TURNS = 3
MIB = 2**20


class Worker:
    """A process that holds one implementation of one case at a time."""

    def __init__(self, side: str, device: str, return_memory: bool) -> None:
        # Blocks from 64 kB on come from the kernel and go back to it when freed: slower, but the peak is the true one.
        more = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"} if return_memory else {}
        command = [sys.executable, "-m", "bench.model", "--worker", side, "--device", device]
        self._side = side
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | more, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        if not (answer := self._process.stdout.readline()):
            raise SystemExit(f"bench: the process of {self._side} stopped; its own error stands above")
        return json.loads(answer)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def measure(kind: str, case: str, shape: dict[str, Any], device: str, runs: int) -> dict[str, Any]:
    """Seconds of every run and peak bytes of both sides, and how far their outputs are apart."""
    request = {"kind": kind, "case": case, "shape": shape}
    found: dict[str, Any] = {"seconds": {side: [] for side in SIDES}, "bytes": {}}
    with tempfile.TemporaryDirectory() as folder:
        outputs = []
        for side in SIDES:
            worker = Worker(side, device, return_memory=True)
            outputs.append(f"{folder}/{side}.pt")
            worker.ask(**request, save=outputs[-1])
            found["bytes"][side] = worker.ask(**request)["bytes"]
            worker.close()
        ours, theirs = (torch.load(path, weights_only=True) for path in outputs)
    found["error"] = float((ours - theirs).abs().max() / theirs.abs().max())
    for _ in range(runs):
        for side, seconds in one_run(request, device).items():
            found["seconds"][side].append(seconds)
    return found


def one_run(request: dict[str, Any], device: str) -> dict[str, float]:
    """Median seconds of each side, in fresh processes."""
    workers = {side: Worker(side, device, return_memory=False) for side in SIDES}
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(TURNS + 1):
        for side in SIDES if turn % 2 else SIDES[::-1]:
            seconds[side].append(workers[side].ask(**request)["seconds"])
    for worker in workers.values():
        worker.close()
    return {side: statistics.median(found[1:]) for side, found in seconds.items()}  # the first one warms up


def row(name: str, case: str, found: dict[str, Any]) -> list[str]:
    ours, theirs = (found["seconds"][side] for side in SIDES)
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    mib = [found["bytes"][side] / MIB for side in SIDES]
    times = [f"{statistics.median(seconds):.3g}" for seconds in (ours, theirs)]
    spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"
    return [
        name,
        case,
        *times,
        spread,
        *(f"{size:,.0f}" for size in mib),
        f"{mib[0] / mib[1]:.2f}",
        f"{found['error']:.1e}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default="", help="part of a shape's or a case's name")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        from bench.sides import serve

        return serve(arguments.worker, arguments.device)
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"cogtune / diffusers on {arguments.device}, {arguments.runs} runs of {TURNS} turns, median (lowest–highest)"
    )
    for heading in ("shape", "case", "s", "s diffusers", "ratio", "MiB", "MiB diffusers", "ratio", "error"):
        table.add_column(heading, justify="left" if heading in ("shape", "case") else "right")
    shapes = yaml.safe_load((ROOT / "bench/shapes.yaml").read_text())
    wanted = [
        (kind, name, shape, case)
        for kind, cases in KINDS.items()
        for name, shape in shapes[kind].items()
        for case in cases
        if arguments.device in shape["devices"] and arguments.only in f"{kind} {name} {case}"
    ]
    for kind, name, shape, case in wanted:
        print(f"{name}: {case} …", file=sys.stderr, flush=True)
        cells = row(name, case, measure(kind, case, shape, arguments.device, arguments.runs))
        print("  ".join(cells), file=sys.stderr, flush=True)  # a run that is stopped has told these
        table.add_row(*cells)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
