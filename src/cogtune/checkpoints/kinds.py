"""Identify weights: component, family, parameter count, dtypes."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cogtune.checkpoints import names
from cogtune.checkpoints.header import Header, Source
from cogtune.checkpoints.lora import holds_lora
from cogtune.checkpoints.shapes import PREFIXES, Shape


@dataclass(frozen=True)
class Family:
    """The sizes that identify a published transformer. ``inputs``, ``outputs``: values per patch at input and output.
    ``positions``: whether its files contain a position table; None: some do."""

    hidden_size: int
    num_layers: int
    inputs: int
    outputs: int
    positions: bool | None
    ofs: bool = False


FAMILIES = {
    "2B": Family(1920, 30, 64, 64, None),
    "5B": Family(3072, 42, 64, 64, False),
    "5B-I2V": Family(3072, 42, 128, 64, True),
    "1.5-5B": Family(3072, 42, 128, 128, False),
    "1.5-5B-I2V": Family(3072, 42, 256, 128, False, ofs=True),
}
_ROLE_OF = {
    "network": ("mixins.", "transformer.layers.", "transformer_blocks."),
    "autoencoder": ("encoder.down.", "decoder.up.", "encoder.down_blocks.", "decoder.up_blocks."),
    "embedder": ("encoder.block.", "shared."),
}
WORDS = {"network": "transformer", "autoencoder": "VAE", "embedder": "T5", "lora": "LoRA"}


def roles(header: Header) -> list[str]:
    """The components in a file: ``lora``, or some of network, autoencoder, embedder (all three in a training checkpoint)."""
    if holds_lora(header.tensors):
        return ["lora"]
    inside = [role for role, prefix in PREFIXES.items() if any(name.startswith(prefix) for name in header.tensors)]
    if inside:
        return inside
    return [role for role, begins in _ROLE_OF.items() if any(name.startswith(begins) for name in header.tensors)]


def component(header: Header, prefix: str) -> dict[str, Source]:
    """The tensors of one component with our names. ``prefix``: their prefix in a training checkpoint.
    Raises UserError if only some of the parts of a tensor exist."""
    tensors = header.tensors
    if prefix and any(name.startswith(prefix) for name in tensors):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if any(name.startswith("transformer_blocks.") for name in tensors):
        return names.from_diffusers(tensors)
    if any(re.match(r"encoder\.down_blocks\.|decoder\.up_blocks\.", name) for name in tensors):
        ours = names.vae_from_diffusers(tensors)
        return {ours[name]: tensor for name, tensor in tensors.items()}
    return dict(tensors)


def spelling(header: Header) -> str:
    """The naming scheme of the tensors: SAT or diffusers."""
    diffusers_prefixes = ("transformer_blocks.", "encoder.down_blocks.", "decoder.up_blocks.")
    return "diffusers" if any(name.startswith(diffusers_prefixes) for name in header.tensors) else "SAT"


def sizes(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Config values of a transformer that follow from its shapes (with our names)."""
    plain = {name.replace(".original.", "."): shape for name, shape in shapes.items()}
    layers = {int(match[1]) for name in plain if (match := re.match(r"transformer\.layers\.(\d+)\.", name))}
    patch = plain.get("mixins.patch_embed.proj.weight", (0, 0))
    head = plain.get("mixins.adaln_layer.query_layernorm_list.0.weight")
    values = {
        "hidden_size": patch[0],
        "num_layers": len(layers),
        "inputs": math.prod(patch[1:]),
        "outputs": plain.get("mixins.final_layer.linear.weight", (0,))[0],
        "positions": names.POSITIONS in plain,
        "ofs": "ofs_embed.0.weight" in plain,
        "text_hidden_size": plain.get("mixins.patch_embed.text_proj.weight", (0, 0))[1],
        "time_embed_dim": plain.get("time_embed.0.weight", (0,))[0],
    }
    return values | ({"num_attention_heads": patch[0] // head[0]} if head and head[0] else {})


def family(shapes: Mapping[str, Shape]) -> str:
    """The published family of a transformer (with our names), or "custom"."""
    has = sizes(shapes)
    for name, wanted in FAMILIES.items():
        same = all(
            has[key] == getattr(wanted, key) for key in ("hidden_size", "num_layers", "inputs", "outputs", "ofs")
        )
        if same and wanted.positions in (None, has["positions"]):
            return name
    return "custom"


def lora_families(layers: Iterable[int], hidden_size: int) -> list[str]:
    """The families that a LoRA fits; the four 5B models have adapters of the same shapes."""
    last = max(layers, default=0)
    return [name for name, one in FAMILIES.items() if one.hidden_size == hidden_size and last < one.num_layers]


def parameters(tensors: Mapping[str, Source]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors.values())


def dtypes(tensors: Mapping[str, Source]) -> list[str]:
    """The dtypes of the tensors, most frequent first."""
    count: dict[str, int] = {}
    for tensor in tensors.values():
        count[tensor.dtype] = count.get(tensor.dtype, 0) + math.prod(tensor.shape)
    return sorted(count, key=lambda dtype: -count[dtype])
