"""Stage `export`: the trained weights in the format of diffusers, reloaded and compared before they count as made."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cogtune.config.registry import build, params_of
from cogtune.errors import UserError
from cogtune.model.lora import is_adapter, merge_lora
from cogtune.model.weights import load_weights
from cogtune.model.weights.diffusers import config_json, to_diffusers
from cogtune.model.weights.lora_formats import LORA_FILE, pairs_of, to_diffusers_lora
from cogtune.runtime.atomic import write_json
from cogtune.stages.job import Job
from cogtune.stages.train import start_of
from cogtune.train import result
from cogtune.train.start import Start, adapter_scale, initial_model, trained_model

TOLERANCE = 1e-4
"""Largest difference between outputs (fp32, of order 1) of the trained and of the reloaded model that passes."""

INDEX = "index.json"


def run(job: Job) -> dict[str, Any]:
    """Write `transformer/` (full training) or pytorch_lora_weights.safetensors (LoRA) beside index.json.

    Returns made or reused, the format, and max_abs_error of the reloaded model's output; UserError above TOLERANCE.
    """
    folder = job.job_dir()
    made = not (folder / INDEX).exists()
    if made:
        _export(job, folder)
    index = json.loads((folder / INDEX).read_text())
    return {"made": int(made), "reused": int(not made)} | {name: index[name] for name in ("format", "max_abs_error")}


def _export(job: Job, folder: Path) -> None:
    train = job.upstream_job("train")
    start = start_of(train)
    weights = _chosen(train.job_dir() / "final", job.config["args"].get("ema_sampling") or False)
    with safe_open(weights, framework="pt") as stored:
        facts = json.loads(stored.metadata()["cogtune"])
        only_lora = all(map(is_adapter, stored.keys()))
    trained = trained_model(start, weights).eval()
    shutil.rmtree(folder, ignore_errors=True)  # left over from a run that died before index.json
    folder.mkdir(parents=True)
    write = _write_lora if only_lora else _write_transformer
    error = max_abs_difference(trained, write(trained, start, folder, facts))
    if not error <= TOLERANCE:
        raise UserError(
            f"{folder}: the exported weights, read back, change the output by {error:.2e}; {TOLERANCE:.0e} passes. "
            f"This is a defect of the export, not of your training: the trained weights are {weights}"
        )
    kind = "diffusers_lora" if only_lora else "diffusers"
    write_json(folder / INDEX, {"format": kind, "max_abs_error": error, "source": str(weights), **facts})


def _chosen(final: Path, average: bool) -> Path:
    path = final / (result.AVERAGE if average else result.MODEL)
    if not path.exists():
        key = "args.ema_sampling: the optimizer kept no average; use sat.ops.FusedEmaAdam" if average else "train first"
        raise UserError(f"{path}: not there ({key})")
    return path


def _write_lora(trained: nn.Module, start: Start, folder: Path, facts: dict[str, Any]) -> nn.Module:
    node = start.network_config["params"]["modules"]["lora_config"]["params"]
    tensors, metadata = to_diffusers_lora(pairs_of(trained.state_dict(), node.get("lora_alpha", 1)))
    _save(tensors, folder / LORA_FILE, metadata | {"cogtune": json.dumps(facts, sort_keys=True)})
    reloaded = initial_model(start)
    load_weights(reloaded, folder / LORA_FILE)
    return reloaded


def _write_transformer(trained: nn.Module, start: Start, folder: Path, facts: dict[str, Any]) -> nn.Module:
    """All weights; a LoRA that was trained together with them is folded in."""
    scale = adapter_scale(start.network_config)
    state = trained.state_dict()
    plain = start.network_config
    if scale is not None:
        state = merge_lora(state, scale)
        modules = {name: node for name, node in plain["params"]["modules"].items() if name != "lora_config"}
        plain = plain | {"params": plain["params"] | {"modules": modules}}
    params = params_of(plain)
    target = folder / "transformer"
    target.mkdir()
    write_json(target / "config.json", config_json(params))
    metadata = {"format": "pt", "cogtune": json.dumps(facts, sort_keys=True)}
    _save(to_diffusers(state, params), target / "diffusion_pytorch_model.safetensors", metadata)
    reloaded: nn.Module = build(plain)
    load_weights(reloaded, target)
    return reloaded


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


@torch.no_grad()
def max_abs_difference(first: nn.Module, second: nn.Module) -> float:
    """Largest difference of two networks' outputs on one fixed input: one patch of frames, fp32, mid noise."""
    x, timesteps, context = _probe(first)
    outputs = [network.eval().float()(x, timesteps, context) for network in (first, second)]
    return float((outputs[0] - outputs[1]).abs().max())


def _probe(network: Any) -> tuple[Tensor, Tensor, Tensor]:
    params, frames = network.params, network.patch_size[0]
    pos_embed = params.modules["pos_embed_config"]["params"]
    # Position tables hold for the configured size only; rotary models take any, and 1.5 configures a very large one.
    tabled = getattr(network.mixins.pos_embed, "pos_embedding", None) is not None
    height, width = (size if tabled else min(size, 16) for size in (params.latent_height, params.latent_width))
    draw = torch.Generator().manual_seed(0)
    x_BTCHW = torch.randn(1, frames, params.in_channels, height, width, generator=draw)
    text_hidden = network.mixins.patch_embed.text_proj.in_features
    context_BLD = torch.randn(1, pos_embed["text_length"], text_hidden, generator=draw)
    return x_BTCHW, torch.tensor([500]), context_BLD
