"""Small twins with the switches of every published family, in upstream's spelling, and their diffusers counterpart.

One row of `FAMILIES` says all that the tests know of a family.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cogtune.checkpoints.names import POSITIONS, UNUSED
from cogtune.config.build import build, params_of
from cogtune.config.schema.dit import PositionParams
from cogtune.model.dit import DiffusionTransformer
from cogtune.model.weights.diffusers import config_json, to_diffusers

TEXT, TEXT_WIDTH = 7, 24
OFS = {f"ofs_embed.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}


@dataclass(frozen=True)
class Family:
    """A model family, small and at its published size.

    ``file``: its model file in config/, without `.yaml`. ``identified``: its name in `checkpoints.kinds.FAMILIES`.
    ``positions``: the `pos_embed_config` node; in the small twin, `hidden_size_head` and `text_length` are small.
    ``tensors``: state dict entries that not every family has. ``small``: `network_config` params of the small twin that
    differ from 9 frames of 8 x 12 latents with 4 channels. ``full``: those of the published model that differ from 5B's.
    ``text_length``: of the published model. ``diffusers``: transformer/config.json of the published model (upstream's
    tools/convert_weight_sat2hf.py), less diffusers' defaults; None: diffusers has no counterpart. Parity tests use the
    families that have one (`IN_DIFFUSERS`), all other tests use all.
    """

    file: str
    identified: str
    positions: dict[str, Any]
    tensors: set[str]
    patch_size: int | list[int] = 2
    small: dict[str, Any] = field(default_factory=dict[str, Any])
    full: dict[str, Any] = field(default_factory=dict[str, Any])
    text_length: int = 226
    diffusers: dict[str, Any] | None = None

    @property
    def position_params(self) -> PositionParams:
        return params_of(self.positions)

    @property
    def patch_frames(self) -> int:
        """Latent frames of a patch."""
        return self.patch_size[0] if isinstance(self.patch_size, list) else 1

    @property
    def frames(self) -> int:
        """Latent frames of a clip that tests use: as many as its small twin has, or one more to fill a patch."""
        return 3 + 3 % self.patch_frames

    @property
    def latent(self) -> tuple[int, int, int]:
        """T, H, W at the published size: 49 x 480 x 720, or 81 x 768 x 1360 with a patch of two frames (1.5)."""
        return (13, 60, 90) if self.patch_frames == 1 else (22, 96, 170)


def _rotary(**more: Any) -> dict[str, Any]:
    params = {"hidden_size_head": 16, "text_length": TEXT, **more}
    return {"target": "dit_video_concat.Rotary3DPositionEmbeddingMixin", "params": params}


SINCOS = {
    "target": "dit_video_concat.Basic3DPositionEmbeddingMixin",
    "params": {"text_length": TEXT, "height_interpolation": 1.875, "width_interpolation": 1.875},
}
_V1 = {"sample_height": 60, "sample_width": 90, "sample_frames": 49, "max_text_seq_length": 226, "patch_bias": True}
_V15 = {
    "sample_height": 96, "sample_width": 170, "sample_frames": 81, "max_text_seq_length": 224, "patch_bias": False,
    "patch_size_t": 2,
}  # fmt: skip
_5B = {"num_layers": 42, "num_attention_heads": 48, "use_rotary_positional_embeddings": True}
_FULL_15 = {"num_frames": 81, "latent_width": 300, "latent_height": 300}

FAMILIES = {
    "2b": Family(
        "cogvideox_2b", "2B", SINCOS, {POSITIONS},
        full={"num_layers": 30, "hidden_size": 1920, "num_attention_heads": 30},
        diffusers={**_V1, "num_layers": 30, "num_attention_heads": 30, "spatial_interpolation_scale": 1.875},
    ),
    "5b": Family("cogvideox_5b", "5B", _rotary(), {UNUSED}, diffusers={**_V1, **_5B}),
    "5b_i2v": Family(
        "cogvideox_5b_i2v", "5B-I2V", _rotary(learnable_pos_embed=True), {UNUSED, POSITIONS},
        small={"in_channels": 8}, full={"in_channels": 32},
        diffusers={**_V1, **_5B, "in_channels": 32, "use_learned_positional_embeddings": True},
    ),
    "1.5_5b": Family(
        "cogvideox1.5_5b", "1.5-5B", _rotary(), {UNUSED}, patch_size=[2, 2, 2],
        small={"num_frames": 21}, full=_FULL_15, text_length=224, diffusers={**_V15, **_5B},
    ),
    "1.5_5b_i2v": Family(
        "cogvideox1.5_5b_i2v", "1.5-5B-I2V", _rotary(), {UNUSED, *OFS}, patch_size=[2, 2, 2],
        small={"num_frames": 21, "in_channels": 8, "ofs_embed_dim": 32},
        full={**_FULL_15, "in_channels": 32, "ofs_embed_dim": 512}, text_length=224,
        diffusers={**_V15, **_5B, "in_channels": 32, "ofs_embed_dim": 512},
    ),
}  # fmt: skip
IN_DIFFUSERS = [name for name, family in FAMILIES.items() if family.diffusers is not None]


def full_size(family: str) -> dict[str, Any]:
    """The `network_config` node of a published model."""
    row = FAMILIES[family]
    params = {
        "num_layers": 42, "hidden_size": 3072, "num_attention_heads": 48, "time_embed_dim": 512, "num_frames": 49,
        "latent_width": 90, "latent_height": 60, "in_channels": 16, "out_channels": 16, **row.full,
    }  # fmt: skip
    position = {**row.positions["params"], "text_length": row.text_length}
    if "hidden_size_head" in position:
        position["hidden_size_head"] = params["hidden_size"] // params["num_attention_heads"]
    node = network_config(family, **params)
    modules = node["params"]["modules"]
    modules["patch_embed_config"]["params"] = {"text_hidden_size": 4096}
    modules["pos_embed_config"] = {**row.positions, "params": position}
    return node


def network_config(family: str, lora: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A `network_config` node: 2 layers of 3 heads of 16; 9 pixel frames, latents of 8 x 12, unless changed."""
    row = FAMILIES[family]
    modules = {
        "pos_embed_config": {**row.positions, "params": dict(row.positions["params"])},
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
        "hidden_size": 48, "adm_in_channels": 256, "num_attention_heads": 3, "patch_size": row.patch_size,
        "transformer_args": {"checkpoint_activations": False, "vocab_size": 1, "max_sequence_length": 64},
        "modules": modules, **row.small, **more,
    }  # fmt: skip
    return {"target": "dit_video_concat.DiffusionTransformer", "params": params}


def randomised(node: dict[str, Any], seed: int = 0) -> DiffusionTransformer:
    """The model with every parameter random and non-zero (norms around 1), also those that start at zero."""
    torch.manual_seed(seed)
    dit = build(node)
    assert isinstance(dit, DiffusionTransformer)
    with torch.no_grad():
        for name, parameter in dit.named_parameters():
            if name == POSITIONS and not parameter.requires_grad:
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
