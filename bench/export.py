"""Time and memory of an export, each format in a process of its own: written, loaded again by us and by its own loader.

    python bench/export.py [--layers 10] [--formats diffusers_lora diffusers]

A LoRA of rank 128 over a network as wide as 2B's (1,920); 30 layers are the whole 2B. The memory is how far the process's
peak rises above its imports, over the fp32 bytes of the network.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "config"
MODEL = ("cogvideox_2b_lora.yaml", "sft.yaml")


def export(name: str, layers: int, folder: Path) -> None:
    """One format in this process; prints its figures."""
    import torch
    from safetensors.torch import save_file

    from bench.load import peak
    from cogtune.config.build import build
    from cogtune.model.lora import is_adapter
    from cogtune.model.start import Start
    from cogtune.model.weights.formats import Settings
    from cogtune.stages.export import Exporter
    from cogtune.work.load import load_config

    overrides = [f"model.network_config.params.num_layers={layers}"]
    config = load_config([CONFIG / file for file in MODEL], overrides, check_files=False)
    start, trained = Start(config.values["model"]["network_config"], seed=0), folder / "trained.safetensors"
    with torch.device("meta"):  # what a real network left in the heap would be taken off the peak
        network = build(start.network_config)
    size = sum(4 * parameter.numel() for parameter in network.parameters())
    draw = torch.Generator().manual_seed(0)
    shapes = {name: p.shape for name, p in network.named_parameters() if is_adapter(name)}
    save_file({name: torch.randn(shape, generator=draw) * 0.01 for name, shape in shapes.items()}, trained)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before, started = peak(), time.perf_counter()
    exporter = Exporter(start, trained, Settings(torch.bfloat16, facts={"steps": 1}))
    ready = time.perf_counter()
    entry = exporter.make(name, folder)
    seconds = {"network": ready - started, "export": time.perf_counter() - ready}
    print(json.dumps(seconds | {"peak": (peak() - before) / size, "size": size, "error": entry.max_abs_error}))


def main() -> None:
    """One row for each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--formats", nargs="+", default=["diffusers_lora", "comfyui_lora", "diffusers", "merged"])
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        export(arguments.formats[0], arguments.layers, arguments.folder)
        return
    print(f"{'format':16} {'network, GB':>12} {'built, s':>10} {'exported, s':>12} {'peak / network':>15} {'error':>9}")
    for name in arguments.formats:
        with tempfile.TemporaryDirectory(prefix="cogtune-bench-") as folder:
            own = ["--layers", str(arguments.layers), "--formats", name, "--folder", folder]
            command = [sys.executable, "-m", "bench.export", *own]
            done = subprocess.run(command, capture_output=True, text=True, cwd=CONFIG.parent)
        if done.returncode:
            sys.exit(done.stderr)
        row = json.loads(done.stdout.splitlines()[-1])
        built, seconds = row["network"], row["export"]
        print(
            f"{name:16} {row['size'] / 1e9:12.2f} {built:10.1f} {seconds:12.1f} {row['peak']:15.2f} {row['error']:9.1e}"
        )


if __name__ == "__main__":
    main()
