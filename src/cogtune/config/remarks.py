"""Remarks on legal but surprising settings; each is printed once."""

import os
from collections.abc import Iterator
from pathlib import Path

from cogtune.config import deepspeed_limits, diffusers_limits
from cogtune.config.geometry import PIXELS_PER_LATENT, latent_frames
from cogtune.config.valid_data import folders
from cogtune.config.values import NETWORK, SCHEDULES, Values, network, positions


def _held_out(at: Values) -> Iterator[str]:
    trained = [Path(os.path.abspath(name)) for name in at["args.train_data"] or []]
    held = {folder: Path(os.path.abspath(folder)) for folder in folders(at["args.valid_data"])}
    both = [name for name, folder in held.items() if any(folder.is_relative_to(other) for other in trained)]
    if both and at["args.mode"] != "inference":
        yield (
            f"args.valid_data: {', '.join(both)} is also in train_data, so the model trains on its clips and "
            "validation figures are not held out"
        )


_FEWEST_DRAWS = 16


def _few_draws(at: Values) -> Iterator[str]:
    """Upstream's sft.yaml has one batch of one. Standard deviation over seeds, a tiny network: 1 draw 14 %, 16 draws 2 %."""
    iterations, size = (
        at["args.eval_iters"],
        at["args.eval_batch_size"] or at["deepspeed.train_micro_batch_size_per_gpu"],
    )
    evaluates = at["args.eval_interval"] and at["args.valid_data"] and at["args.mode"] != "inference"
    if evaluates and iterations and iterations * size < _FEWEST_DRAWS:
        yield (
            f"args.eval_iters: {iterations} x {size} draws per validation: the loss of so few depends on their noise more than "
            "on the training; leave eval_iters out for 16 draws per clip"
        )


def _idle_deepspeed(at: Values) -> Iterator[str]:
    if at["args.mode"] != "inference":
        yield from deepspeed_limits.idle(at["deepspeed"])


def _padding(at: Values) -> Iterator[str]:
    frames, size = at["data.params.max_num_frames"], at[f"{NETWORK}.patch_size"][0]
    latents = latent_frames(frames)
    if latents % size:
        yield (
            f"data.params.max_num_frames: {frames} frames are {latents} latent frames, not a multiple of the patch size {size}; "
            "the first latent frame is repeated in front, and removed after decoding"
        )


def _beyond(at: Values) -> Iterator[str]:
    if not positions(at).rotates:
        return
    most = [at[f"{NETWORK}.latent_{side}"] * PIXELS_PER_LATENT for side in ("height", "width")]
    size, frames = at["data.params.video_size"], at["data.params.max_num_frames"]
    if frames > at[f"{NETWORK}.num_frames"] or any(have > limit for have, limit in zip(size, most, strict=True)):
        yield (
            f"data.params: {frames} frames of {size} exceed {at[f'{NETWORK}.num_frames']} frames of {most}, "
            "the largest size that this model was trained on"
        )


def _schedules(at: Values) -> Iterator[str]:
    first, *others = SCHEDULES
    for part in others:
        if at[f"model.{part}.discretization_config"] != at[f"model.{first}.discretization_config"]:
            yield f"model.{part}.discretization_config: differs from the noise schedule of model.{first}; is this intended?"


_HIDDEN_2B = 1920


def _trained_in(at: Values) -> Iterator[str]:
    """Upstream's sft.yaml: bf16 off for 2B, on for 5B. The published 2B weights are fp16, all others bf16."""
    small = at[f"{NETWORK}.hidden_size"] == _HIDDEN_2B
    have = "fp16" if at["args.fp16"] else "bf16" if at["args.bf16"] else None
    if small and have == "bf16":
        yield (
            f"{have}: CogVideoX-2B was trained in fp16, which is more precise; to use it, set deepspeed.bf16.enabled: "
            "false and deepspeed.fp16.enabled: true"
        )
    elif not small and have == "fp16" and at[f"{NETWORK}.hidden_size"] > _HIDDEN_2B:
        yield f"{have}: this model family was trained in bf16, which has a larger range; watch for overflow (inf in the loss)"


def _adapters(at: Values) -> Iterator[str]:
    if at.get(f"{NETWORK}.modules.lora_config") and "all" not in at["model.not_trainable_prefixes"]:
        yield (
            "model.not_trainable_prefixes: the LoRA adapters and all other weights are trained; "
            "to train the adapters only, set it to [all]"
        )


_LEAST_LORA_RATE, _LEAST_LORA_STEP = 5e-5, 1e-4
"""Learning rate, and rate x lora_alpha, below which adapters hardly move. Upstream advises 5e-4 to 1e-3 at alpha 1. Of 300
steps on a toy (tests/unit/train/toy.py) the loss fell by 28 % at 1e-3 and alpha 1, 12 % at 5e-4, 0.04 % at 1e-5, and 4 % at
1e-5 and alpha 128; rank 32, 128 and 256 made no difference."""


def _lora_rate(at: Values) -> Iterator[str]:
    lora, rate = at.get(f"{NETWORK}.modules.lora_config.params"), at["deepspeed.optimizer.params.lr"]
    if not lora or at["args.mode"] == "inference" or "lora_alpha" not in lora:
        return
    alpha = lora["lora_alpha"]
    if 0 < rate < _LEAST_LORA_RATE or 0 < rate * alpha < _LEAST_LORA_STEP:
        yield (
            f"deepspeed.optimizer.params.lr: {rate:g} with lora_alpha {alpha:g}: the LoRA will hardly learn. This "
            "rate suits full fine-tuning; a LoRA needs 5e-4 to 1e-3 at lora_alpha 1, or at least 1e-4 at lora_alpha r. Put "
            "the LoRA file after sft.yaml, or set the rate"
        )


def _accumulation(at: Values) -> Iterator[str]:
    steps = at.get("deepspeed.gradient_accumulation_steps") or 1
    if at["args.global_batch_size"] and steps != 1 and at["args.mode"] != "inference":
        yield (
            f"deepspeed.gradient_accumulation_steps: {steps} is ignored: accumulation follows from "
            "args.global_batch_size and the ranks; `cogtune plan` prints it. Remove one of the two keys"
        )


def _gathered_weights(at: Values) -> Iterator[str]:
    """Without DeepSpeed's memory_efficient_linear (see train/engine.py) autograd keeps the gathered weights themselves."""
    partitioned = deepspeed_limits.stage_of(at["deepspeed"]) == 3
    if partitioned and at["args.checkpoint_activations"] == "none" and at["args.mode"] != "inference":
        yield (
            "args.checkpoint_activations: none keeps all weights that ZeRO stage 3 gathers until the backward pass, as if "
            "they were not partitioned; use full, attention or selective"
        )


def _random_weights(at: Values) -> Iterator[str]:
    if not at["model.first_stage_config.params.ckpt_path"]:
        yield (
            "model.first_stage_config.params.ckpt_path: not set, so the VAE has random weights and latents and samples "
            "are noise; set it to the VAE's weights (3d-vae.pt, or a diffusers folder)"
        )
    if not at["args.load"] and at["args.mode"] == "finetune":
        yield (
            "args.load: not set, so training starts from random weights; set it to the model's weights, or set "
            "args.mode: pretrain"
        )


def _exported_as_sat(at: Values) -> Iterator[str]:
    if at["args.mode"] != "inference" and (why := diffusers_limits.refusal(network(at))):
        yield f"args.export_formats: the result is exported in SAT's format, because diffusers cannot load it ({why})"


REMARKS = (
    _idle_deepspeed,
    _padding,
    _beyond,
    _schedules,
    _trained_in,
    _adapters,
    _lora_rate,
    _accumulation,
    _gathered_weights,
    _held_out,
    _few_draws,
    _random_weights,
    _exported_as_sat,
)
