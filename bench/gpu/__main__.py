"""The engine on a GPU, at the published sizes, in bf16 with random weights: `python -m bench.gpu` (`make bench-gpu`).

    passes      the DiT alone, forward and backward, beside diffusers, eager and compiled
    steps       a training step with DeepSpeed and the optimizer, LoRA and all weights, per checkpoint policy
    optimizer   AdamW and the moving average
    encoders    VAE (clips per second) and T5 (captions per second)
    sampling    50 guided steps and the decoder

Each group runs in a process of its own and starts no new case after --seconds. Rows show the seconds, the share of the
card's peak by the FLOPs of `cogtune plan`, the peak of memory, what the plan expected, and the target if there is one.
Results: --out FOLDER gets gpu.json, gpu.md and, for each missed target, a table of kernels. Nothing fails.

Examples:
    python -m bench.gpu --out results/bench
    python -m bench.gpu --groups steps --models 5b
    python -m bench.gpu --tiny --groups passes          # on a CPU, in seconds: shows that it runs
    python -m bench.gpu --table results/bench/gpu.json  # prints the table again
"""

import argparse
import importlib
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from bench.gpu.bench import Bench
from bench.gpu.results import Results, Row, environment
from bench.gpu.setting import FILES
from cogtune.runtime.devices import prepare_torch

GROUPS = ("passes", "steps", "optimizer", "encoders", "sampling")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=GROUPS)
    parser.add_argument("--models", nargs="+", default=list(FILES), choices=FILES)
    parser.add_argument("--tiny", action="store_true", help="small networks, which a CPU can run")
    parser.add_argument("--no-peer", action="store_true", help="without diffusers")
    parser.add_argument("--no-compile", action="store_true", help="without compiled layers, which take a minute each")
    parser.add_argument("--runs", type=int, default=2, help="calls of which the median counts (default: 2)")
    parser.add_argument(
        "--seconds", type=float, default=480, help="of a group, after which no case starts (default: 480)"
    )
    parser.add_argument("--out", type=Path, default=Path("results/bench"), help="folder (default: results/bench)")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="print the table of an earlier gpu.json, run nothing"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


def work(arguments: argparse.Namespace, device: torch.device) -> None:
    """Run one group, and print each row as a line of JSON."""
    (group,) = arguments.groups
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is not a row
    prepare_torch()
    results = Results(environment(device), [])
    bench = Bench(
        device=device,
        tiny=arguments.tiny,
        models=arguments.models,
        runs=arguments.runs,
        peer=not arguments.no_peer,
        compiled=not arguments.no_compile,
        seconds=arguments.seconds,
        on_row=lambda row: print(json.dumps(asdict(row)), file=answers, flush=True),
        results=results,
        profiles=arguments.out,
    )
    importlib.import_module(f"bench.gpu.{group}").run(bench)


def rows_of(group: str) -> list[Row]:
    """The rows of a group, measured in a process of its own. A process that fails is reported as a row."""
    command = [sys.executable, "-m", "bench.gpu", *sys.argv[1:], "--groups", group, "--worker"]
    rows: list[Row] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("{"):
                rows.append(Row(**json.loads(line)))
                row = rows[-1]
                figure = f"{row.seconds:.3g} s" if row.seconds else row.note
                print(f"{group}: {row.model}, {row.case}, {row.side}: {figure}", file=sys.stderr, flush=True)
    if process.returncode:
        rows.append(Row(group, "", "", "", None, "", note=f"the process ended with exit code {process.returncode}"))
    return rows


def main() -> int:
    arguments = parser().parse_args()
    if arguments.table:
        print(Results.read(arguments.table).markdown(), end="")
        return 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not arguments.tiny:
        print(
            "bench.gpu: PyTorch sees no GPU; --tiny runs the same cases with small networks on the CPU", file=sys.stderr
        )
        return 2
    if arguments.worker:
        work(arguments, device)
        return 0
    results = Results(environment(device), [row for group in arguments.groups for row in rows_of(group)])
    arguments.out.mkdir(parents=True, exist_ok=True)
    results.write(arguments.out / "gpu.json")
    (arguments.out / "gpu.md").write_text(results.markdown(), encoding="utf-8")
    print(results.markdown(), end="")
    return int(any(row.note.startswith("the process") for row in results.rows))


if __name__ == "__main__":
    sys.exit(main())
