"""Memory and time of loading a model of about 2 GB: ours from safetensors shards and from SAT's .pt, beside diffusers.

    python bench/load.py [--gigabytes 2.2] [--runs 3]

The weights are made in a temporary folder and removed at the end. Each load runs in a process of its own, several times;
the figure is how far the process's peak resident memory rises above what its imports took, over the bytes of the model.
Ours is loaded onto a network on `meta`, which takes the tensors in the file's type, and into one in memory (bf16 as well);
diffusers' by `from_pretrained(torch_dtype=bfloat16)`, as its documentation has it. diffusers maps the file and reads it
when a weight is used, so every weight is read once after loading and before the memory is looked at.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HIDDEN = 1920


def network_node(layers: int) -> dict[str, Any]:
    """2B's switches with rotary positions; each layer has about 56 M parameters."""
    modules = {
        "pos_embed_config": {
            "target": "Rotary3DPositionEmbedding",
            "params": {"hidden_size_head": 64, "text_length": 226},
        },
        "patch_embed_config": {"target": "PatchEmbedding", "params": {"text_hidden_size": 4096}},
        "adaln_layer_config": {"target": "AdaLN", "params": {}},
        "final_layer_config": {"target": "FinalLayer"},
    }
    params = {
        "num_layers": layers, "hidden_size": HIDDEN, "num_attention_heads": HIDDEN // 64, "time_embed_dim": 512,
        "in_channels": 16, "out_channels": 16, "patch_size": 2, "num_frames": 49, "time_compressed_rate": 4,
        "latent_width": 90, "latent_height": 60, "modules": modules,
    }  # fmt: skip
    return {"target": "DiffusionTransformer", "params": params}


def make(folder: Path, layers: int) -> int:
    """Write both folders; returns the bytes of the weights."""
    import torch

    from cogtune.checkpoints.shapes import shapes_of
    from cogtune.model.weights.formats import NetworkWeights, Settings, write

    node = network_node(layers)
    draw = torch.Generator().manual_seed(0)
    state = {
        name: torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=draw)
        for name, shape in (shapes_of(node) or {}).items()
    }
    for form in ("diffusers", "sat"):
        write(form, folder / form, NetworkWeights(state, node), Settings(shard=500_000_000))
    return sum(tensor.nbytes for tensor in state.values())


def load(kind: str, folder: Path, layers: int) -> None:
    """One load in this process; prints its figures."""
    import torch

    if kind == "diffusers":
        from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel as Theirs
    else:
        from cogtune.config.build import build
        from cogtune.model.weights import load_weights

        with torch.device("meta"):
            build(network_node(1))  # torch imports more of itself at the first use of meta
    before, started = peak(), time.perf_counter()
    if kind == "diffusers":
        model: Any = Theirs.from_pretrained(folder / "diffusers", torch_dtype=torch.bfloat16, local_files_only=True)
    else:
        source, where = kind.split("-")
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("meta"):
            model = build(network_node(layers))
        if where == "memory":
            model.to_empty(device="cpu")
        load_weights(model, folder / {"safetensors": "diffusers", "sat": "sat"}[source])
    seconds = time.perf_counter() - started
    total = sum(map(checksum, model.named_parameters()))  # what was mapped only is read now
    touched = time.perf_counter() - started
    held = sum(parameter.nbytes for parameter in model.parameters())
    print(json.dumps({"growth": peak() - before, "held": held, "seconds": seconds, "touched": touched, "sum": total}))


def checksum(named: tuple[str, Any]) -> float:
    """The sum of a parameter, in pieces, so that no copy of it is made; 0 for the table that diffusers does not have."""
    import torch

    name, parameter = named
    pieces = parameter.detach().flatten().split(1 << 20)
    return 0.0 if "position_embeddings" in name else sum(float(piece.sum(dtype=torch.float64)) for piece in pieces)


def peak() -> int:
    """Bytes of the largest resident set of this process so far, file pages that it mapped included."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


KINDS = ("safetensors-meta", "safetensors-memory", "sat-meta", "sat-memory", "diffusers")


def main() -> None:
    """Make the weights, load them in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--load", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--layers", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        load(arguments.load, arguments.folder, arguments.layers)
        return
    layers = max(1, round(arguments.gigabytes * 1e9 / 2 / 56.2e6))
    with tempfile.TemporaryDirectory(prefix="cogtune-bench-") as name:
        size = make(Path(name), layers)
        print(f"{size / 1e9:.2f} GB of bf16 weights, {layers} layers of {HIDDEN}; {arguments.runs} runs each")
        print(f"{'':20} {'peak growth / model':>26} {'seconds':>22} {'… and read once':>22}")
        sums: set[float] = set()
        for kind in KINDS:
            command = [sys.executable, __file__, "--load", kind, "--folder", name, "--layers", str(layers)]
            results = []
            for _ in range(arguments.runs):
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(done.stderr)
                results.append(json.loads(done.stdout.splitlines()[-1]))
            ratios = [run["growth"] / run["held"] for run in results]
            seconds = [run["seconds"] for run in results]
            touched = [run["touched"] for run in results]
            print(f"{kind:20} {spread(ratios):>26} {spread(seconds):>22} {spread(touched):>22}", flush=True)
            sums.add(round(results[0]["sum"], 3))
        print("all hold the same weights" if len(sums) == 1 else f"the weights differ: {sums}")


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
