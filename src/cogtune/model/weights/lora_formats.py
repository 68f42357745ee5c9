"""LoRA files of diffusers (`pytorch_lora_weights.safetensors`), both ways.

diffusers (0.35 and later) takes rank and alpha from the JSON in the file's metadata, so that `load_lora_weights`
applies the strength that was trained; without it, it assumes alpha = rank.
"""

import json
import re
from collections.abc import Mapping

from torch import Tensor

from cogtune.errors import UserError

LORA_FILE = "pytorch_lora_weights.safetensors"
_METADATA_KEY = "lora_adapter_metadata"
_PROJECTIONS = {
    ("query_key_value", "0"): "to_q",
    ("query_key_value", "1"): "to_k",
    ("query_key_value", "2"): "to_v",
    ("dense", "0"): "to_out.0",
}
_LAYER_AND_PART = {theirs: ours for ours, theirs in _PROJECTIONS.items()}
_OURS = re.compile(r"transformer\.layers\.(\d+)\.attention\.(query_key_value|dense)\.matrix_([AB])\.(\d)")
_THEIRS = re.compile(r"(?:transformer\.)?transformer_blocks\.(\d+)\.attn1\.(to_[qkv]|to_out\.0)\.lora_([AB])\.weight")


def to_diffusers_lora(state: Mapping[str, Tensor], alpha: float, r: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) to save as LORA_FILE from a state dict with adapters; its other tensors are left out.

    Raises: UserError when there are no adapters, or their rank is not r.
    """
    tensors: dict[str, Tensor] = {}
    modules: dict[str, None] = {}  # a set that keeps its order
    for name, tensor in state.items():
        if not (found := _OURS.fullmatch(name)):
            continue
        layer, projection, side, part = found.groups()
        module = f"transformer_blocks.{layer}.attn1.{_PROJECTIONS[projection, part]}"
        rank = tensor.shape[0 if side == "A" else 1]
        if rank != r:
            raise UserError(f"{name} has rank {rank}; expected r = {r}")
        tensors[f"transformer.{module}.lora_{side}.weight"] = tensor.contiguous()
        modules[module] = None
    if not tensors:
        raise UserError("the weights hold no LoRA adapters (names with matrix_A and matrix_B)")
    adapter = {"r": r, "lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none", "target_modules": list(modules)}
    prefixed = {f"transformer.{key}": value for key, value in adapter.items()}
    return tensors, {"format": "pt", _METADATA_KEY: json.dumps(prefixed, sort_keys=True)}


def from_diffusers_lora(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[dict[str, Tensor], float]:
    """(adapters in our names, alpha / r). Without metadata the factor is 1, as diffusers itself takes it.

    Raises: UserError for tensors off the four attention projections, and for kinds of LoRA that have no counterpart.
    """
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not (found := _THEIRS.fullmatch(name)):
            raise UserError(
                f"{name} adapts a layer that has no adapter here; only attn1.to_q, to_k, to_v, to_out.0 have"
            )
        layer, projection, side = found.groups()
        ours, part = _LAYER_AND_PART[projection]
        out[f"transformer.layers.{layer}.attention.{ours}.matrix_{side}.{part}"] = tensor
    return out, _scale(metadata)


def _scale(metadata: Mapping[str, str]) -> float:
    """alpha / r from the JSON of a pipeline (`transformer.r`) or of a model by itself (`r`)."""
    adapter = json.loads(metadata.get(_METADATA_KEY, "{}"))
    adapter = {key.removeprefix("transformer."): value for key, value in adapter.items()}
    for kind in ("alpha_pattern", "use_rslora", "use_dora"):
        if adapter.get(kind):
            raise UserError(f"the LoRA was made with {kind}: {adapter[kind]!r}, which has no counterpart here")
    alpha, r = adapter.get("lora_alpha"), adapter.get("r")
    return alpha / r if alpha is not None and r else 1.0


def is_diffusers_lora(names: Mapping[str, Tensor]) -> bool:
    return any(_THEIRS.fullmatch(name) for name in names)
