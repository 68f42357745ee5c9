"""Convert the transformer to and from diffusers (CogVideoXTransformer3DModel), and write its config.json."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cogtune.checkpoints.names import POSITIONS, UNUSED, in_diffusers, our_name
from cogtune.config.build import params_of
from cogtune.config.diffusers_limits import positions_in_diffusers, refusal
from cogtune.config.schema.dit import (
    DiffusionTransformerParams,
    PatchEmbeddingParams,
    PositionParams,
)
from cogtune.errors import UserError
from cogtune.model.dit import patch_of
from cogtune.model.lora import is_adapter
from cogtune.model.weights.read import JOIN, split


def to_diffusers(state: Mapping[str, Tensor], params: DiffusionTransformerParams) -> dict[str, Tensor]:
    """State dict of CogVideoXTransformer3DModel; views of ``state`` where possible.

    Raises: UserError for a state with adapters (merge them first), or with unknown names.
    """
    if adapters := [name for name in state if is_adapter(name)]:
        raise UserError(f"the weights contain LoRA adapters ({adapters[0]}, …); merge them, or export them as a LoRA")
    pos = params_of(params.modules["pos_embed_config"])
    learned = pos.adds_table and not pos.computed
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == UNUSED or (name == POSITIONS and not learned):
            continue
        foreign = in_diffusers(name)
        if foreign is None:
            raise UserError(f"{name}: unknown weight, diffusers' transformer has no counterpart")
        out |= zip(foreign.names, split(foreign.join, tensor, len(foreign.names)), strict=True)
    o, p, q = patch_of(params)
    if o == 1:
        out["patch_embed.proj.weight"] = out["patch_embed.proj.weight"].reshape(-1, params.in_channels, p, q)
    return out


def from_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict with our names, without the sine-cosine and the unused table, which diffusers does not have."""
    out: dict[str, Tensor] = {}
    for name in state:
        ours = our_name(name)
        foreign = in_diffusers(ours)
        if foreign is not None and ours not in out:
            out[ours] = JOIN[foreign.join]([state[part] for part in foreign.names])
    return out


def config_json(params: DiffusionTransformerParams) -> dict[str, Any]:
    """config.json of the diffusers folder. Raises: UserError for settings that diffusers does not support."""
    if why := refusal(params):
        raise UserError(f"{why}; write format sat instead")
    o, p, _ = patch_of(params)
    pos = params_of(params.modules["pos_embed_config"], PositionParams)
    patch_embed = params_of(params.modules["patch_embed_config"], PatchEmbeddingParams)
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
        **positions_in_diffusers(params).entries(),
    }


def _sample_size(params: DiffusionTransformerParams) -> tuple[int, int]:
    """Latent height and width that a pipeline generates by default. The 300 x 300 of the 1.5 files is the extent of the
    rotary table; its published size is 768 x 1360 pixels."""
    size = (params.latent_height, params.latent_width)
    return (96, 170) if size == (300, 300) else size
