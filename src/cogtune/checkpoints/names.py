"""Map tensor names between SAT, whose names cogtune uses, and diffusers.

Names are relative to `model.diffusion_model.` and `first_stage_model.`. diffusers splits query_key_value in three
and the modulation of a layer in two; it computes the sine-cosine table, and does not use
`transformer.position_embeddings`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cogtune.checkpoints.header import Joined, Source
from cogtune.errors import UserError

POSITIONS, UNUSED = "mixins.pos_embed.pos_embedding", "transformer.position_embeddings.weight"
LEARNED = "patch_embed.pos_embedding"

# Modules that are only renamed; {} is the layer number.
_RENAMED = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "ofs_embed.0": "ofs_embedding.linear_1",
    "ofs_embed.2": "ofs_embedding.linear_2",
    "transformer.layers.{}.attention.dense": "transformer_blocks.{}.attn1.to_out.0",
    "transformer.layers.{}.mlp.dense_h_to_4h": "transformer_blocks.{}.ff.net.0.proj",
    "transformer.layers.{}.mlp.dense_4h_to_h": "transformer_blocks.{}.ff.net.2",
    "transformer.layers.{}.input_layernorm": "transformer_blocks.{}.norm1.norm",
    "transformer.layers.{}.post_attention_layernorm": "transformer_blocks.{}.norm2.norm",
    "transformer.final_layernorm": "norm_final",
    "mixins.adaln_layer.query_layernorm_list.{}": "transformer_blocks.{}.attn1.norm_q",
    "mixins.adaln_layer.key_layernorm_list.{}": "transformer_blocks.{}.attn1.norm_k",
    "mixins.patch_embed.proj": "patch_embed.proj",
    "mixins.patch_embed.text_proj": "patch_embed.text_proj",
    "mixins.final_layer.norm_final": "norm_out.norm",
    "mixins.final_layer.adaLN_modulation.1": "norm_out.linear",
    "mixins.final_layer.linear": "proj_out",
}
_JOINED = {
    "transformer.layers.{}.attention.query_key_value": (
        "rows", tuple(f"transformer_blocks.{{}}.attn1.to_{part}" for part in "qkv"),
    ),
    "mixins.adaln_layer.adaLN_modulations.{}.1": (
        "branches", tuple(f"transformer_blocks.{{}}.norm{branch}.linear" for branch in (1, 2)),
    ),
}  # fmt: skip
_TO_DIFFUSERS = {ours: ("same", (renamed,)) for ours, renamed in _RENAMED.items()} | _JOINED
_FROM_DIFFUSERS = {part: ours for ours, (_, parts) in _TO_DIFFUSERS.items() for part in parts}
_LAYER = re.compile(r"(?<=layers\.)\d+|(?<=blocks\.)\d+|(?<=_list\.)\d+|(?<=modulations\.)\d+")


@dataclass(frozen=True)
class Foreign:
    """One of our tensors in diffusers: its names there, and how they are joined (see `header.Joined`; ``same``:
    renamed only)."""

    join: str
    names: tuple[str, ...]


def in_diffusers(name: str) -> Foreign | None:
    """The transformer tensor ``name`` in diffusers; None if diffusers does not have it."""
    if name == POSITIONS:
        return Foreign("same", (LEARNED,))
    module, layer, kind = _split(name)
    if module not in _TO_DIFFUSERS:
        return None
    join, parts = _TO_DIFFUSERS[module]
    if name == "mixins.patch_embed.proj.weight":
        join = "flat"
    return Foreign(join, tuple(f"{part.replace('{}', layer)}.{kind}" for part in parts))


def our_name(diffusers_name: str) -> str:
    """Our name of a diffusers transformer tensor, or of the tensor that it is part of; unknown names are returned as they are."""
    if diffusers_name == LEARNED:
        return POSITIONS
    module, layer, kind = _split(diffusers_name)
    module_name = _FROM_DIFFUSERS.get(module)
    return diffusers_name if module_name is None else f"{module_name.replace('{}', layer)}.{kind}"


def from_diffusers(tensors: Mapping[str, Source]) -> dict[str, Source]:
    """A transformer with our names. Raises UserError if only some of the parts of a tensor exist."""
    out: dict[str, Source] = {}
    for diffusers_name, tensor in tensors.items():
        ours = our_name(diffusers_name)
        if ours in out:
            continue
        foreign = in_diffusers(ours)
        if foreign is None:
            out[ours] = tensor
            continue
        missing = [part for part in foreign.names if part not in tensors]
        if missing:
            raise UserError(f"the diffusers weights are incomplete: {missing[0]} is missing")
        parts = tuple(tensors[part] for part in foreign.names)
        out[ours] = parts[0] if foreign.join == "same" else Joined(foreign.join, parts)
    return out


_VAE = [
    (r"\bdown\.", "down_blocks.", r"\bdown_blocks\.", "down."),
    (r"\bblock\.(\d)", r"resnets.\1", r"\bresnets\.(\d)", r"block.\1"),
    (r"\bdownsample\.", "downsamplers.0.", r"\bdownsamplers\.0\.", "downsample."),
    (r"\bupsample\.", "upsamplers.0.", r"\bupsamplers\.0\.", "upsample."),
    (r"\bnin_shortcut\b", "conv_shortcut", r"\bconv_shortcut\b", "nin_shortcut"),
]


def vae_in_diffusers(name: str, levels: int) -> str:
    """The name of a VAE tensor in diffusers, which counts the decoder's levels in the opposite order."""
    name = re.sub(r"\bup\.(\d+)", lambda match: f"up_blocks.{levels - 1 - int(match[1])}", name)
    name = re.sub(r"\bmid\.block_(\d)", lambda match: f"mid_block.resnets.{int(match[1]) - 1}", name)
    for pattern, new, _, _ in _VAE:
        name = re.sub(pattern, new, name)
    return name


def vae_from_diffusers(names: Iterable[str]) -> dict[str, str]:
    """Our name of each VAE tensor in diffusers."""
    names = list(names)
    levels = 1 + max((int(match[1]) for name in names if (match := re.search(r"\bup_blocks\.(\d+)", name))), default=0)
    return {name: _vae_ours(name, levels) for name in names}


def _vae_ours(name: str, levels: int) -> str:
    name = re.sub(r"\bup_blocks\.(\d+)", lambda match: f"up.{levels - 1 - int(match[1])}", name)
    name = re.sub(r"\bmid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    for _, _, pattern, new in _VAE:
        name = re.sub(pattern, new, name)
    return name


def _split(name: str) -> tuple[str, str, str]:
    """ "a.layers.3.b.weight" -> ("a.layers.{}.b", "3", "weight"): the layer is the number after the name of a list of layers."""
    module, _, kind = name.rpartition(".")
    layer = _LAYER.search(module)
    if not layer:
        return module, "", kind
    return module[: layer.start()] + "{}" + module[layer.end() :], layer[0], kind
