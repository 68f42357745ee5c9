"""Read and write LoRA files of SAT, diffusers, PEFT, kohya and ComfyUI.

All contain the same pairs of matrices; they differ in names and in where the scale, alpha / rank, is stored. Files are
written with the scale where their readers expect it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cogtune.checkpoints import Header
from cogtune.checkpoints.lora import COMFY, METADATA_KEY, PROJECTIONS, our_name, read_lora
from cogtune.checkpoints.shapes import PREFIXES
from cogtune.errors import UserError
from cogtune.model.weights.read import read

LORA_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class Adapter:
    """The adapter of one projection: y += (alpha / r) B A x, with A (r, D) and B (D, r)."""

    A: Tensor
    B: Tensor
    alpha: float

    @property
    def r(self) -> int:
        return self.A.shape[0]


Adapters = dict[tuple[int, str], Adapter]
"""By (layer, projection in diffusers' name)."""


def pairs_of(state: Mapping[str, Tensor], alpha: float) -> Adapters:
    """The adapters in a state dict with our names; other tensors are ignored. Raises UserError if there are none."""
    layers = {int(name.split(".")[2]) for name in state if ".matrix_A." in name}
    pairs = {
        (layer, projection): Adapter(state[A].contiguous(), state[our_name(layer, projection, "B")].contiguous(), alpha)
        for layer in sorted(layers)
        for projection in PROJECTIONS
        if (A := our_name(layer, projection, "A")) in state
    }
    if not pairs:
        raise UserError("the weights contain no LoRA adapters (names with matrix_A and matrix_B)")
    return pairs


def read_pairs(header: Header, sat_alpha: float = 1.0) -> Adapters:
    """The adapters of a LoRA file of any format. ``sat_alpha``: for SAT's files, which do not contain it."""
    lora = read_lora(header)
    return {
        target: Adapter(read(one.A), read(one.B), sat_alpha if one.scale is None else one.scale * one.rank)
        for target, one in lora.adapters.items()
    }


def to_diffusers_lora(pairs: Adapters) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of LORA_FILE. diffusers 0.35 and later takes rank and alpha from the metadata."""
    adapter = _one_config(pairs)
    prefixed = {f"transformer.{key}": value for key, value in adapter.items()}
    return _named(pairs, "transformer."), {"format": "pt", METADATA_KEY: json.dumps(prefixed, sort_keys=True)}


def to_folded_lora(pairs: Adapters) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Like `to_diffusers_lora`, with lora_B multiplied by the scale, for programs that do not read the metadata."""
    folded = {
        target: Adapter(pair.A, scaled(pair.B, pair.alpha / pair.r), float(pair.r)) for target, pair in pairs.items()
    }
    return to_diffusers_lora(folded)


def scaled(B: Tensor, factor: float) -> Tensor:
    """``factor`` times B: in its own dtype if that is exact (powers of two), else in fp32."""
    exact = abs(math.frexp(factor)[0]) == 0.5
    return B * factor if exact else B.float() * factor


def to_peft(pairs: Adapters) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors of PEFT_FILE, content of PEFT_CONFIG)."""
    return _named(pairs, "base_model.model."), {"peft_type": "LORA", "task_type": None} | _one_config(pairs)


def to_kohya(pairs: Adapters) -> dict[str, Tensor]:
    """kohya's names over diffusers' modules: lora_unet_transformer_blocks_0_attn1_to_q.lora_down.weight, …, .alpha"""
    return _with_alphas({f"lora_unet_{_module(*target).replace('.', '_')}": pair for target, pair in pairs.items()})


def to_comfyui(pairs: Adapters) -> dict[str, Tensor]:
    """ComfyUI's own names of the CogVideoX network: diffusion_model.blocks.0.q.lora_down.weight, …, .alpha"""
    names = {target: f"diffusion_model.blocks.{target[0]}.{COMFY[target[1]]}" for target in pairs}
    return _with_alphas({names[target]: pair for target, pair in pairs.items()})


def to_sat(pairs: Adapters, alpha: float) -> dict[str, Tensor]:
    """SAT's names. Its files do not contain alpha: B is scaled for a YAML with this ``alpha``; unchanged if the pairs have
    the same alpha."""
    out: dict[str, Tensor] = {}
    for target, pair in pairs.items():
        B = pair.B if pair.alpha == alpha else scaled(pair.B, pair.alpha / alpha)
        out[PREFIXES["network"] + our_name(*target, "A")] = pair.A
        out[PREFIXES["network"] + our_name(*target, "B")] = B
    return out


def _module(layer: int, projection: str) -> str:
    return f"transformer_blocks.{layer}.attn1.{projection}"


def _named(pairs: Adapters, prefix: str) -> dict[str, Tensor]:
    sides = {f"{prefix}{_module(*target)}.lora": pair for target, pair in pairs.items()}
    return {
        f"{name}_{side}.weight": tensor
        for name, pair in sides.items()
        for side, tensor in (("A", pair.A), ("B", pair.B))
    }


def _with_alphas(named: Mapping[str, Adapter]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, pair in named.items():
        out[f"{name}.lora_down.weight"], out[f"{name}.lora_up.weight"] = pair.A, pair.B
        out[f"{name}.alpha"] = torch.tensor(float(pair.alpha))
    return out


def _one_config(pairs: Adapters) -> dict[str, Any]:
    """PEFT's LoraConfig, with one rank and one alpha for all layers. Raises UserError if they differ."""
    ranks, alphas = {pair.r for pair in pairs.values()}, {pair.alpha for pair in pairs.values()}
    if len(ranks) > 1 or len(alphas) > 1:
        raise UserError(
            f"ranks {sorted(ranks)} and alphas {sorted(alphas)}: this format supports one rank and one alpha for all layers; use "
            "folded_lora (one rank), kohya or comfyui_lora"
        )
    (r,), (alpha,) = ranks, alphas
    alpha = int(alpha) if float(alpha).is_integer() else alpha
    modules = [_module(*target) for target in pairs]
    return {"r": r, "lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none", "target_modules": modules}
