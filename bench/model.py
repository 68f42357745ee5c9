"""DiT and VAE against diffusers with the same weights, time and peak memory: `python -m bench.model [--runs 5]`.

Two processes hold one implementation each and take turns, so that other load on the machine affects both. A run is the
median of three turns; each run starts new processes, because the layout of a process's memory changes its speed by a few
per cent. Thirteen cases take half an hour on two cores. Peak memory is what a
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

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def measure(kind: str, case: str, shape: dict[str, Any], device: str, runs: int) -> dict[str, Any]:
    """Seconds of every run and peak bytes of both sides, and how far their outputs are apart."""
    request = {"kind": kind, "case": case, "shape": shape}
    result: dict[str, Any] = {"seconds": {side: [] for side in SIDES}, "bytes": {}}
    with tempfile.TemporaryDirectory() as folder:
        outputs = [f"{folder}/{side}.pt" for side in SIDES]
        for side, path in zip(SIDES, outputs, strict=True):
            with Worker(side, device, return_memory=True) as worker:
                worker.ask(**request, save=path)
                result["bytes"][side] = worker.ask(**request)["bytes"]
        ours, theirs = (torch.load(path, weights_only=True) for path in outputs)
    result["error"] = float((ours - theirs).abs().max() / theirs.abs().max())
    for _ in range(runs):
        workers = {side: Worker(side, device, return_memory=False) for side in SIDES}
        for side, answers in take_turns(workers, request).items():
            result["seconds"][side].append(statistics.median(answer["seconds"] for answer in answers))
        for worker in workers.values():
            worker.close()
    return result


def measure_on_gpu(workers: dict[str, Worker], request: dict[str, Any], runs: int) -> dict[str, Any]:
    """As `measure`, with the same two processes for all cases: torch counts a GPU's bytes exactly, and where a process has
    its memory there does not change its speed."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = {side: f"{folder}/{side}.pt" for side in SIDES}
        for side, worker in workers.items():
            worker.ask(**request, save=outputs[side])
        ours, theirs = (torch.load(path, weights_only=True) for path in outputs.values())
    turns = [take_turns(workers, request) for _ in range(runs)]
    return {
        "seconds": {
            side: [statistics.median(answer["seconds"] for answer in turn[side]) for turn in turns] for side in SIDES
        },
        "bytes": {side: turns[0][side][-1]["bytes"] for side in SIDES},
        "error": float((ours - theirs).abs().max() / theirs.abs().max()),
    }


def take_turns(workers: dict[str, Worker], request: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The answers of each side to `TURNS` requests, after one that warms up."""
    answers: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for turn in range(TURNS + 1):
        for side in SIDES if turn % 2 else SIDES[::-1]:
            answers[side].append(workers[side].ask(**request))
    return {side: answers_of_side[1:] for side, answers_of_side in answers.items()}


def row(name: str, case: str, result: dict[str, Any]) -> list[str]:
    ours, theirs = (result["seconds"][side] for side in SIDES)
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    mib = [result["bytes"][side] / MIB for side in SIDES]
    times = [f"{statistics.median(seconds):.3g}" for seconds in (ours, theirs)]
    spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"
    return [
        name,
        case,
        *times,
        spread,
        *(f"{size:,.0f}" for size in mib),
        f"{mib[0] / mib[1]:.2f}",
        f"{result['error']:.1e}",
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

    from cogtune.doctor.torch_probe import attention_kernel

    device = torch.device(arguments.device)
    kernel = attention_kernel(device, torch.float32 if device.type == "cpu" else torch.bfloat16)
    print(f"attention kernel: {kernel}", file=sys.stderr, flush=True)
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
    on_gpu = arguments.device.startswith("cuda")
    workers = {side: Worker(side, arguments.device, return_memory=False) for side in SIDES} if on_gpu else {}
    for kind, name, shape, case in wanted:
        print(f"{name}: {case} …", file=sys.stderr, flush=True)
        if on_gpu:
            result = measure_on_gpu(workers, {"kind": kind, "case": case, "shape": shape}, arguments.runs)
        else:
            result = measure(kind, case, shape, arguments.device, arguments.runs)
        cells = row(name, case, result)
        print("  ".join(cells), file=sys.stderr, flush=True)  # so that a run that is stopped has printed these
        table.add_row(*cells)
    for worker in workers.values():
        worker.close()
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
