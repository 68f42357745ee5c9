"""Names and shapes of all weights of a network or VAE, computed from the config alone.

The classes in model/ define the weights; a test compares these tables with them, for every family.
"""

import math
from collections.abc import Iterator
from typing import Any

from cogtune.checkpoints.names import POSITIONS, UNUSED
from cogtune.config.build import params_of
from cogtune.config.geometry import NETWORK_PREFIX, latent_frames
from cogtune.config.registry import find
from cogtune.config.schema.dit import (
    AdaLNParams,
    DiffusionTransformerParams,
    LoraParams,
    PatchEmbeddingParams,
    PositionParams,
)
from cogtune.config.schema.vae import Coder3DParams, VideoAutoencoderParams

Shape = tuple[int, ...]
PREFIXES = {"network": NETWORK_PREFIX, "autoencoder": "first_stage_model.", "embedder": "conditioner."}
"""Prefix of the names in a training checkpoint, by role of the component."""
ADAPTED = {"query_key_value": 3, "dense": 1}
"""Attention layers that get adapters -> number of parts of their output."""


def shapes_of(node: dict[str, Any]) -> dict[str, Shape] | None:
    """Name -> shape for a ``{target, params}`` node; None for a component whose weights are unknown."""
    params = params_of(node)
    match find(node["target"]).role:
        case "network" if isinstance(params, DiffusionTransformerParams):
            return dict(_network(params))
        case "autoencoder" if isinstance(params, VideoAutoencoderParams):
            return dict(_autoencoder(params))
    return None


def derived_names(node: dict[str, Any]) -> set[str]:
    """Tensors of a network that are computed or unused; formats with learned weights only omit them."""
    pos = params_of(params_of(node).modules["pos_embed_config"])
    return ({UNUSED} if pos.rotates else set()) | ({POSITIONS} if pos.computed else set())


def _linear(name: str, out: int, inner: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (out, inner)
    yield f"{name}.bias", (out,)


def _norm(name: str, size: int, affine: bool = True) -> Iterator[tuple[str, Shape]]:
    if affine:
        yield f"{name}.weight", (size,)
        yield f"{name}.bias", (size,)


def _network(p: DiffusionTransformerParams) -> Iterator[tuple[str, Shape]]:
    D, E, affine = p.hidden_size, p.time_embed_dim or p.hidden_size, p.elementwise_affine
    patch = [1, p.patch_size, p.patch_size] if isinstance(p.patch_size, int) else p.patch_size
    features = math.prod(patch)
    text = params_of(p.modules["patch_embed_config"], PatchEmbeddingParams)
    for name, width in (("time_embed", D), ("ofs_embed", p.ofs_embed_dim)):
        if width:
            yield from _linear(f"{name}.0", E, width)
            yield from _linear(f"{name}.2", E, E)
    yield from _layers(p, D, E, affine)
    yield from _norm("transformer.final_layernorm", D, affine)
    yield from _positions(p, patch)
    yield from _linear("mixins.patch_embed.proj", D, p.in_channels * features)
    yield from _linear("mixins.patch_embed.text_proj", D, text.text_hidden_size)
    yield from _norm("mixins.final_layer.norm_final", D, affine)
    yield from _linear("mixins.final_layer.adaLN_modulation.1", 2 * D, E)
    yield from _linear("mixins.final_layer.linear", p.out_channels * features, D)


def _layers(p: DiffusionTransformerParams, D: int, E: int, affine: bool) -> Iterator[tuple[str, Shape]]:
    head = D // p.num_attention_heads
    modulation = params_of(p.modules["adaln_layer_config"], AdaLNParams)
    lora = params_of(p.modules["lora_config"]) if p.modules.get("lora_config") else None
    for i in range(p.num_layers):
        layer, adaln = f"transformer.layers.{i}", "mixins.adaln_layer"
        yield from _norm(f"{layer}.input_layernorm", D, affine)
        yield from _norm(f"{layer}.post_attention_layernorm", D, affine)
        yield from _attention(f"{layer}.attention", D, lora if lora is None or _adapts(lora, i) else None)
        yield from _linear(f"{layer}.mlp.dense_h_to_4h", 4 * D, D)
        yield from _linear(f"{layer}.mlp.dense_4h_to_h", D, 4 * D)
        yield from _linear(f"{adaln}.adaLN_modulations.{i}.1", 12 * D, E)
        if modulation.qk_ln:
            yield from _norm(f"{adaln}.query_layernorm_list.{i}", head, affine)
            yield from _norm(f"{adaln}.key_layernorm_list.{i}", head, affine)


def _adapts(lora: LoraParams, layer: int) -> bool:
    return lora.layer_range is None or layer in lora.layer_range


def _attention(name: str, D: int, lora: LoraParams | None) -> Iterator[tuple[str, Shape]]:
    for layer, parts in ADAPTED.items():
        within = f"{name}.{layer}" if lora is None else f"{name}.{layer}.original"
        yield from _linear(within, parts * D, D)
        for j in range(parts if lora else 0):
            assert lora is not None
            yield f"{name}.{layer}.matrix_A.{j}", (lora.r, D)
            yield f"{name}.{layer}.matrix_B.{j}", (D, lora.r)


def _positions(p: DiffusionTransformerParams, patch: list[int]) -> Iterator[tuple[str, Shape]]:
    pos = params_of(p.modules["pos_embed_config"], PositionParams)
    if pos.rotates:
        yield UNUSED, (p.transformer_args.max_sequence_length, p.hidden_size)
    # A table counts latent frames, whatever the temporal patch.
    frames = latent_frames(p.num_frames, p.time_compressed_rate)
    tokens = frames * (p.latent_height // patch[1]) * (p.latent_width // patch[2])
    for tensor in pos.parameters(tokens, p.hidden_size):
        yield f"mixins.pos_embed.{tensor.name}", tensor.shape


def _autoencoder(p: VideoAutoencoderParams) -> Iterator[tuple[str, Shape]]:
    for part, build in (("encoder", _encoder), ("decoder", _decoder)):
        params = params_of(p.encoder_config if part == "encoder" else p.decoder_config, Coder3DParams)
        for name, shape in build(params):
            yield f"{part}.{name}", shape


def _conv(name: str, out: int, inner: int, *kernel: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (out, inner, *kernel)
    yield f"{name}.bias", (out,)


def _encoder(p: Coder3DParams) -> Iterator[tuple[str, Shape]]:
    widths, before = [p.ch * factor for factor in p.ch_mult], p.ch
    yield from _conv("conv_in.conv", p.ch, p.in_channels, 3, 3, 3)
    for level, width in enumerate(widths):
        for j in range(p.num_res_blocks):
            yield from _block(f"down.{level}.block.{j}", before, width)
            before = width
        if level < len(widths) - 1:
            yield from _conv(f"down.{level}.downsample.conv", width, width, 3, 3)
    for j in (1, 2):
        yield from _block(f"mid.block_{j}", before, before)
    yield from _norm("norm_out", before)
    yield from _conv("conv_out.conv", p.z_channels * (2 if p.double_z else 1), before, 3, 3, 3)


def _decoder(p: Coder3DParams) -> Iterator[tuple[str, Shape]]:
    widths = [p.ch * factor for factor in p.ch_mult]
    before, z = widths[-1], p.z_channels
    yield from _conv("conv_in.conv", before, z, 3, 3, 3)
    for j in (1, 2):
        yield from _block(f"mid.block_{j}", before, before, z)
    for level in reversed(range(len(widths))):
        for j in range(p.num_res_blocks + 1):
            yield from _block(f"up.{level}.block.{j}", before, widths[level], z)
            before = widths[level]
        if level > 0:
            yield from _conv(f"up.{level}.upsample.conv", before, before, 3, 3)
    yield from _spatial_norm("norm_out", before, z)
    yield from _conv("conv_out.conv", p.out_ch, before, 3, 3, 3)


def _block(name: str, inner: int, out: int, z: int = 0) -> Iterator[tuple[str, Shape]]:
    for j, width in ((1, inner), (2, out)):
        yield from _spatial_norm(f"{name}.norm{j}", width, z) if z else _norm(f"{name}.norm{j}", width)
        yield from _conv(f"{name}.conv{j}.conv", out, width, 3, 3, 3)
    if inner != out:
        yield from _conv(f"{name}.nin_shortcut", out, inner, 1, 1, 1)


def _spatial_norm(name: str, width: int, z: int) -> Iterator[tuple[str, Shape]]:
    yield from _norm(f"{name}.norm_layer", width)
    for part in ("conv_y", "conv_b"):
        yield from _conv(f"{name}.{part}.conv", width, z, 1, 1, 1)
