"""The two implementations that bench/model.py compares, each behind one function per case."""

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cogtune.checkpoints.names import vae_in_diffusers
from cogtune.config.build import build, params_of
from cogtune.config.geometry import latent_size
from cogtune.config.schema.checkpointing import Policy
from cogtune.model.weights.diffusers import config_json, to_diffusers
from cogtune.work.load import load_config

ROOT = Path(__file__).parents[1]
NETWORK, VAE = "model.network_config.params", "model.first_stage_config.params"
Run = Callable[[], Tensor]


def serve(side: str, device: str) -> None:
    """Answer requests on standard input, one JSON line each; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    known: tuple[str, Run] | None = None
    on_gpu = device.startswith("cuda")
    for line in sys.stdin:
        request = json.loads(line)
        name = json.dumps([request["kind"], request["case"], request["shape"]])
        if known is None or known[0] != name:
            known = None
            if on_gpu:
                gc.collect()
                torch.cuda.empty_cache()
            known = name, MAKERS[request["kind"]](side, request["case"], request["shape"], torch.device(device))
        output, seconds, peak = timed(known[1], torch.device(device))
        if path := request.get("save"):
            torch.save(output.detach().float().cpu(), path)
        print(json.dumps({"seconds": seconds, "bytes": peak}), file=answers, flush=True)


def timed(run: Run, device: torch.device) -> tuple[Tensor, float, int]:
    """Output, seconds, and the bytes that memory grew by at its highest point."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        before = _status("VmRSS")
    started = time.perf_counter()
    output = run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else _status("VmHWM")
    return output, seconds, peak - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def dit_case(side: str, case: str, shape: dict[str, Any], device: torch.device) -> Run:
    changes = [f"{NETWORK}.{key}={value}" for key, value in shape["set"].items()]
    if "hidden_size_head" in str((config := _config(shape["base"], changes)).values):
        head = shape["set"].get("hidden_size", 3072) // shape["set"].get("num_attention_heads", 48)
        config = _config(
            shape["base"], [*changes, f"{NETWORK}.modules.pos_embed_config.params.hidden_size_head={head}"]
        )
    node = config.values["model"]["network_config"]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    ours = build(node)
    model = (ours if side == "cogtune" else _diffusers_dit(node, ours)).to(device, dtype)
    train, policy = case != "forward", Policy(case.rpartition(", ")[2]) if ", " in case else Policy.SELECTIVE
    model.train(train)
    if side == "cogtune":
        ours.checkpoint_activations = policy
    elif policy in (Policy.FULL, Policy.ATTENTION):  # diffusers keeps a block's input, or everything
        model.enable_gradient_checkpointing()
    torch.manual_seed(1)
    T, H, W = shape["latent"]
    x_BTCHW = torch.randn(1, T, 16, H, W).to(device, dtype)
    context_BLD, timesteps_B = torch.randn(1, 226, 4096).to(device, dtype), torch.tensor([500], device=device)
    rotary = rotary_of(model, T, H, W, device) if side == "diffusers" else None

    def forward() -> Tensor:
        if side == "cogtune":
            return model(x_BTCHW, timesteps_B, context_BLD)
        return model(x_BTCHW, context_BLD, timesteps_B, image_rotary_emb=rotary, return_dict=False)[0]

    def run() -> Tensor:
        if not train:
            with torch.no_grad():
                return forward()
        model.zero_grad(set_to_none=True)
        output = forward()
        output.float().square().mean().backward()
        return output

    return run


def _config(base: str, overrides: list[str]) -> Any:
    return load_config([ROOT / base], overrides, check_files=False, partial=True)


def _diffusers_dit(node: dict[str, Any], ours: nn.Module) -> Any:
    from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel

    params = params_of(node)
    config = {name: value for name, value in config_json(params).items() if name != "_class_name"}
    twin = CogVideoXTransformer3DModel(**config)
    twin.load_state_dict(to_diffusers(ours.state_dict(), params), strict=True)
    return twin


def rotary_of(twin: Any, T: int, H: int, W: int, device: torch.device) -> Any:
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    if not twin.config.use_rotary_positional_embeddings:
        return None
    grid = (H // 2, W // 2)
    head, frames = twin.config.attention_head_dim, T // (twin.config.patch_size_t or 1)
    return get_3d_rotary_pos_embed(head, None, grid, frames, grid_type="slice", max_size=grid, device=device)


def vae_case(side: str, case: str, shape: dict[str, Any], device: torch.device) -> Run:
    coders = ("encoder_config", "decoder_config")
    changes = [f"{VAE}.{coder}.params.{key}={value}" for coder in coders for key, value in shape["set"].items()]
    batch = 8 if "8 frames" in case else None
    node = _config("config/cogvideox_5b.yaml", [*changes, f"{VAE}.ckpt_path=null"]).values["model"][
        "first_stage_config"
    ]
    node["params"] |= {"ckpt_path": None, "encode_batch_frames": batch}
    torch.manual_seed(0)
    ours = build(node)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    frames, height, width = shape["video"]
    model = (ours if side == "cogtune" else _diffusers_vae(node, ours, batch or frames)).to(device, dtype).eval()
    torch.manual_seed(1)
    video_BCTHW = torch.rand(1, 3, frames, height, width).mul(2).sub(1).to(device, dtype)
    latent_BCTHW = torch.randn(1, 16, *latent_size(frames, height, width)).to(device, dtype)

    @torch.no_grad()
    def run() -> Tensor:
        if case == "decode":
            output = model.decode(latent_BCTHW)
            return output if side == "cogtune" else output.sample
        return model.encode(video_BCTHW) if side == "cogtune" else model.encode(video_BCTHW).latent_dist.parameters

    return run


def _diffusers_vae(node: dict[str, Any], ours: nn.Module, batch: int) -> Any:
    twin = diffusers_vae(node)
    levels = len(node["params"]["encoder_config"]["params"]["ch_mult"])
    twin.load_state_dict({vae_in_diffusers(name, levels): value for name, value in ours.state_dict().items()})
    twin.num_sample_frames_batch_size = batch
    return twin


def diffusers_vae(node: dict[str, Any]) -> Any:
    """diffusers' VAE of a `first_stage_config` node, with weights of its own."""
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX

    coder = node["params"]["encoder_config"]["params"]
    make: Any = AutoencoderKLCogVideoX  # its annotations say tuple[str] for tuples of any length
    return make(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=[coder["ch"] * factor for factor in coder["ch_mult"]],
        latent_channels=16,
        layers_per_block=coder["num_res_blocks"],
    )


MAKERS = {"dit": dit_case, "vae": vae_case}
