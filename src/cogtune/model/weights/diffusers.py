"""The same transformer in diffusers' names (CogVideoXTransformer3DModel), both ways.

Names here are those below `model.diffusion_model.`. diffusers splits query_key_value in three and the modulation of a
layer in two; it computes the sine-cosine table itself, and has no use for `transformer.position_embeddings`.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cogtune.config.registry import params_of
from cogtune.config.schema.dit import (
    Basic3DPositionEmbeddingParams,
    DiffusionTransformerParams,
    PatchEmbeddingParams,
    Rotary3DPositionEmbeddingParams,
)
from cogtune.errors import UserError
from cogtune.model.dit import patch_of
from cogtune.model.lora import is_adapter
from cogtune.model.positions import interpolation_of

# Modules whose parameters only change their name; {} is the layer.
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
_TO_DIFFUSERS = _RENAMED
_FROM_DIFFUSERS = {theirs: ours for ours, theirs in _RENAMED.items()}
_QKV, _MODULATION = "transformer.layers.{}.attention.query_key_value", "mixins.adaln_layer.adaLN_modulations.{}.1"
_POSITIONS, _UNUSED = "mixins.pos_embed.pos_embedding", "transformer.position_embeddings.weight"


def to_diffusers(state: Mapping[str, Tensor], params: DiffusionTransformerParams) -> dict[str, Tensor]:
    """State dict of CogVideoXTransformer3DModel. Raises: UserError for a state with adapters (merge them first)."""
    if adapters := [name for name in state if is_adapter(name)]:
        raise UserError(f"the weights hold LoRA adapters ({adapters[0]}, …); merge them, or export them as a LoRA")
    learned = _is_learned(params)
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == _UNUSED or (name == _POSITIONS and not learned):
            continue
        if name == _POSITIONS:
            out["patch_embed.pos_embedding"] = tensor
            continue
        module, layer, kind = _split(name)
        if module == _QKV:
            parts = zip("qkv", tensor.chunk(3), strict=True)
            out |= {f"transformer_blocks.{layer}.attn1.to_{part}.{kind}": rows for part, rows in parts}
        elif module == _MODULATION:
            video_or_text_by_branch = tensor.unflatten(0, (2, 2, 3, -1))
            for branch in (0, 1):
                rows = video_or_text_by_branch[:, branch].flatten(0, 2)
                out[f"transformer_blocks.{layer}.norm{branch + 1}.linear.{kind}"] = rows
        else:
            out[f"{_rename(module, layer, _TO_DIFFUSERS)}.{kind}"] = tensor
    o, p, q = patch_of(params)
    if o == 1:
        out["patch_embed.proj.weight"] = out["patch_embed.proj.weight"].reshape(-1, params.in_channels, p, q)
    return out


def from_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict in our names. Without the sine-cosine and the unused table, which diffusers does not have."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == "patch_embed.pos_embedding":
            out[_POSITIONS] = tensor
            continue
        module, layer, kind = _split(name)
        if found := re.fullmatch(r"transformer_blocks\.\{\}\.attn1\.to_([qkv])", module):
            if found[1] == "q":
                parts = [_need(state, f"transformer_blocks.{layer}.attn1.to_{part}.{kind}") for part in "qkv"]
                out[f"{_QKV.format(layer)}.{kind}"] = torch.cat(parts)
        elif found := re.fullmatch(r"transformer_blocks\.\{\}\.norm([12])\.linear", module):
            if found[1] == "1":
                branches = [_need(state, f"transformer_blocks.{layer}.norm{b}.linear.{kind}") for b in (1, 2)]
                halves = [rows.unflatten(0, (2, 3, -1)) for rows in branches]
                out[f"{_MODULATION.format(layer)}.{kind}"] = torch.stack(halves, dim=1).flatten(0, 3)
        else:
            out[f"{_rename(module, layer, _FROM_DIFFUSERS)}.{kind}"] = tensor
    if "mixins.patch_embed.proj.weight" in out:
        out["mixins.patch_embed.proj.weight"] = out["mixins.patch_embed.proj.weight"].flatten(1)
    return out


def config_json(params: DiffusionTransformerParams) -> dict[str, Any]:
    """config.json of the diffusers folder. Raises: UserError for what diffusers cannot express."""
    o, p, q = patch_of(params)
    if p != q:
        raise UserError(f"patch_size {[o, p, q]}: diffusers knows square patches only")
    pos = params_of(params.modules["pos_embed_config"])
    patch_embed = params_of(params.modules["patch_embed_config"])
    assert isinstance(pos, Basic3DPositionEmbeddingParams | Rotary3DPositionEmbeddingParams)
    assert isinstance(patch_embed, PatchEmbeddingParams)
    height, width = _sample_size(params)
    return {
        "_class_name": "CogVideoXTransformer3DModel",
        "num_attention_heads": params.num_attention_heads,
        "attention_head_dim": params.hidden_size // params.num_attention_heads,
        "in_channels": params.in_channels,
        "out_channels": params.out_channels,
        "time_embed_dim": params.time_embed_dim or params.hidden_size,
        "ofs_embed_dim": params.ofs_embed_dim,
        "text_embed_dim": patch_embed.text_hidden_size,
        "num_layers": params.num_layers,
        "sample_width": width,
        "sample_height": height,
        "sample_frames": params.num_frames,
        "patch_size": p,
        "patch_size_t": None if o == 1 else o,
        "patch_bias": o == 1,
        "temporal_compression_ratio": params.time_compressed_rate,
        "max_text_seq_length": pos.text_length,
        "norm_elementwise_affine": params.elementwise_affine,
        "use_rotary_positional_embeddings": isinstance(pos, Rotary3DPositionEmbeddingParams),
        "use_learned_positional_embeddings": _is_learned(params),
        **_interpolation(params, pos),
    }


def _sample_size(params: DiffusionTransformerParams) -> tuple[int, int]:
    """Latent height and width that a pipeline generates by default. The 300 x 300 of the 1.5 files is the extent of the
    rotary table; its published size is 768 x 1360 pixels."""
    size = (params.latent_height, params.latent_width)
    return (96, 170) if size == (300, 300) else size


def _interpolation(
    params: DiffusionTransformerParams, pos: Basic3DPositionEmbeddingParams | Rotary3DPositionEmbeddingParams
) -> dict[str, float]:
    if isinstance(pos, Rotary3DPositionEmbeddingParams):
        return {}
    t, h, w = interpolation_of(
        pos, (params.time_interpolation, params.height_interpolation, params.width_interpolation)
    )
    if h != w:
        raise UserError(f"height_interpolation {h} and width_interpolation {w} differ: diffusers knows one for both")
    return {"spatial_interpolation_scale": h, "temporal_interpolation_scale": t}


def _is_learned(params: DiffusionTransformerParams) -> bool:
    pos = params_of(params.modules["pos_embed_config"])
    return isinstance(pos, Rotary3DPositionEmbeddingParams) and pos.learnable_pos_embed


def _split(name: str) -> tuple[str, str, str]:
    """ "a.layers.3.b.weight" -> ("a.layers.{}.b", "3", "weight"): the layer is the number after a list of layers."""
    module, _, kind = name.rpartition(".")
    found = re.search(r"(?<=layers\.)\d+|(?<=blocks\.)\d+|(?<=_list\.)\d+|(?<=modulations\.)\d+", module)
    if not found:
        return module, "", kind
    return module[: found.start()] + "{}" + module[found.end() :], found[0], kind


def _rename(module: str, layer: str, table: Mapping[str, str]) -> str:
    """The other side's name; a name that neither side knows stays, and is reported as unexpected by whoever loads."""
    return table.get(module, module).replace("{}", layer)


def _need(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise UserError(f"the diffusers weights lack {name}, though they hold its sisters")
    return state[name]
