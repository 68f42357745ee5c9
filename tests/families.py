"""Small twins with the switches of every published family, in upstream's spelling, and their diffusers counterpart."""

from typing import Any

import torch
from torch import Tensor, nn

from cogtune.config.build import build, params_of
from cogtune.model.dit import DiffusionTransformer
from cogtune.model.weights.diffusers import config_json, to_diffusers

TEXT, TEXT_WIDTH = 7, 24
SINCOS = {
    "target": "dit_video_concat.Basic3DPositionEmbeddingMixin",
    "params": {"text_length": TEXT, "height_interpolation": 1.875, "width_interpolation": 1.875},
}


def _rotary(**more: Any) -> dict[str, Any]:
    params = {"hidden_size_head": 16, "text_length": TEXT, **more}
    return {"target": "dit_video_concat.Rotary3DPositionEmbeddingMixin", "params": params}


FAMILIES: dict[str, dict[str, Any]] = {
    "2b": {"patch_size": 2, "pos": SINCOS},
    "5b": {"patch_size": 2, "pos": _rotary()},
    "5b_i2v": {"patch_size": 2, "pos": _rotary(learnable_pos_embed=True), "in_channels": 8},
    "1.5_5b": {"patch_size": [2, 2, 2], "pos": _rotary(), "num_frames": 21},
    "1.5_5b_i2v": {"patch_size": [2, 2, 2], "pos": _rotary(), "num_frames": 21, "in_channels": 8, "ofs_embed_dim": 32},
}


# num_layers, hidden_size, num_attention_heads, and the rest of what the published files say (upstream's configs/)
FULL_SIZE: dict[str, dict[str, Any]] = {
    "2b": {"num_layers": 30, "hidden_size": 1920, "num_attention_heads": 30},
    "5b": {},
    "5b_i2v": {"in_channels": 32},
    "1.5_5b": {"num_frames": 81, "latent_width": 300, "latent_height": 300},
    "1.5_5b_i2v": {
        "num_frames": 81, "latent_width": 300, "latent_height": 300, "in_channels": 32, "ofs_embed_dim": 512
    },
}  # fmt: skip


def full_size(family: str) -> dict[str, Any]:
    """The `network_config` node of a published model."""
    common: dict[str, Any] = {
        "num_layers": 42, "hidden_size": 3072, "num_attention_heads": 48, "time_embed_dim": 512, "num_frames": 49,
        "latent_width": 90, "latent_height": 60, "in_channels": 16, "out_channels": 16,
    }  # fmt: skip
    node = network_config(family, **(common | FULL_SIZE[family]))
    modules = node["params"]["modules"]
    modules["patch_embed_config"]["params"] = {"text_hidden_size": 4096}
    position = modules["pos_embed_config"]
    params = position["params"] | {"text_length": 224 if family.startswith("1.5") else 226}
    if family != "2b":
        params["hidden_size_head"] = 64
    modules["pos_embed_config"] = {**position, "params": params}
    return node


def network_config(family: str, lora: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A `network_config` node: 2 layers of 3 heads of 16; 9 pixel frames, latents of 8 x 12, unless changed."""
    switches = dict(FAMILIES[family])
    modules = {
        "pos_embed_config": switches.pop("pos"),
        "patch_embed_config": {
            "target": "dit_video_concat.ImagePatchEmbeddingMixin",
            "params": {"text_hidden_size": TEXT_WIDTH},
        },
        "adaln_layer_config": {"target": "dit_video_concat.AdaLNMixin", "params": {"qk_ln": True}},
        "final_layer_config": {"target": "dit_video_concat.FinalLayerMixin"},
    }
    if lora is not None:
        modules["lora_config"] = {"target": "sat.model.finetune.lora2.LoraMixin", "params": lora}
    params = {
        "time_embed_dim": 32, "elementwise_affine": True, "num_frames": 9, "time_compressed_rate": 4,
        "latent_width": 12, "latent_height": 8, "num_layers": 2, "in_channels": 4, "out_channels": 4,
        "hidden_size": 48, "adm_in_channels": 256, "num_attention_heads": 3,
        "transformer_args": {"checkpoint_activations": False, "vocab_size": 1, "max_sequence_length": 64},
        "modules": modules, **switches, **more,
    }  # fmt: skip
    return {"target": "dit_video_concat.DiffusionTransformer", "params": params}


def randomised(node: dict[str, Any], seed: int = 0) -> DiffusionTransformer:
    """The model with every parameter random and non-zero (norms around 1), also those that start at zero."""
    torch.manual_seed(seed)
    dit = build(node)
    assert isinstance(dit, DiffusionTransformer)
    with torch.no_grad():
        for name, parameter in dit.named_parameters():
            if name == "mixins.pos_embed.pos_embedding" and not parameter.requires_grad:
                continue  # the sine-cosine table is what it is
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            spread = 0.1 if parameter.ndim == 1 or parameter.ndim == 3 else parameter.shape[1] ** -0.5
            parameter.normal_(centre, spread)
    return dit


def diffusers_twin(node: dict[str, Any], state: dict[str, Tensor]) -> nn.Module:
    """With our epsilon in its last norm: diffusers takes 1e-5, upstream and we 1e-6, 4e-6 of the largest output."""
    from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel

    params = params_of(node)
    config = config_json(params)
    config.pop("_class_name")
    twin = CogVideoXTransformer3DModel(**config)
    assert twin.norm_out.norm.eps == 1e-5
    twin.norm_out.norm.eps = 1e-6
    twin.load_state_dict(to_diffusers(state, params), strict=True)
    return twin


def inputs(node: dict[str, Any], T: int, H: int, W: int, B: int = 1, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Latent (B, T, C, H, W), timesteps (B,), context (B, L, D)."""
    torch.manual_seed(seed)
    x = torch.randn(B, T, node["params"]["in_channels"], H, W)
    return x, torch.tensor([999, 7, 444][:B]), torch.randn(B, TEXT, TEXT_WIDTH)


def run_diffusers(twin: Any, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
    """diffusers leaves the rotary tables and `ofs` to its pipelines; here they are what the configuration says."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    rotary = None
    if twin.config.use_rotary_positional_embeddings:
        T, H, W = x.shape[1] // (twin.config.patch_size_t or 1), x.shape[3] // 2, x.shape[4] // 2
        rotary = get_3d_rotary_pos_embed(
            twin.config.attention_head_dim, None, (H, W), T, grid_type="slice", max_size=(H, W)
        )
    ofs = torch.full((1,), 2.0) if twin.config.ofs_embed_dim else None
    return twin(x, context, timesteps, ofs=ofs, image_rotary_emb=rotary, return_dict=False)[0]


def difference(given: Tensor, expected: Tensor) -> float:
    """Largest error as a share of the largest value."""
    assert given.shape == expected.shape
    return float((given - expected).abs().max() / expected.abs().max())
