"""Steps per second of training, on random caches: `python bench/train.py [--steps 60] [--runs 3]`.

The model is the demo's size: 4 layers of 192, 72 video and 16 text tokens, global batch 8, upstream's sft.yaml section.
Each line is one way to use two cores; compare lines of one run only, on an otherwise idle machine.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from cogtune.data.store import ShardWriter
from cogtune.train.launch import run_ranks
from cogtune.work.load import load_config

TINY = Path(__file__).parents[1] / "tests/workflow/tiny.yaml"
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


def measure(root: Path, name: str, ranks: int, threads: int, bf16: bool, steps: int, stage: int) -> dict[str, Any]:
    """One training; its summary."""
    changes = OVERRIDES | {
        "args.train_iters": steps,
        "deepspeed.train_micro_batch_size_per_gpu": 8 // ranks,
        "deepspeed.bf16.enabled": str(bf16).lower(),
        "deepspeed.zero_optimization.stage": stage,
    }
    values = load_config([TINY], [f"{key}={value}" for key, value in changes.items()], check_files=False).values
    folder = root / name
    folder.mkdir()
    plan = {
        "key": name,
        "config": values,
        "start": {"network_config": values["model"]["network_config"], "seed": 1},
        "folder": str(folder),
        "latents": str(root / "latents"),
        "text": str(root / "text"),
        "pairs": [{"clip": f"clip{i}", "caption_id": f"text{i}"} for i in range(CLIPS)],
        "validation_pairs": [],
        "threads": threads,
    }
    run_ranks(plan, ranks, threads, folder / "log", lambda line: None)
    return json.loads((folder / "final/summary.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--stage", type=int, default=2, help="ZeRO stage")
    arguments = parser.parse_args()
    print("ranks x threads  precision   steps/s (min .. max)      data wait   host MiB per rank")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        caches(root)
        for bf16 in (False, True):
            for ranks, threads in WAYS:
                names = [f"{ranks}x{threads}-{bf16}-{run}" for run in range(arguments.runs)]
                summaries = [measure(root, n, ranks, threads, bf16, arguments.steps, arguments.stage) for n in names]
                rates = [summary["steps_per_second"] for summary in summaries]
                wait = max(summary["data_wait_fraction"] for summary in summaries)
                memory = max(summary["peak_memory"]["host_mib"] for summary in summaries)
                spread = f"{statistics.median(rates):6.2f} ({min(rates):.2f} .. {max(rates):.2f})"
                precision = "bf16" if bf16 else "fp32"
                print(f"{ranks} x {threads:<13} {precision:<10} {spread:<26} {wait:<11.4f} {memory:.0f}", flush=True)


if __name__ == "__main__":
    main()
