"""The CogVideoX diffusion transformer, all families (2B, 5B, 5B-I2V, 1.5, 1.5-I2V).

Shapes: B batch, T H W latent frames, height, width, C channels, L text tokens, N = L + video tokens, D hidden,
E conditioning vector. Source: upstream dit_video_concat.py; parameter names are those of its checkpoints below
`model.diffusion_model.`.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cogtune.config.build import build, params_of
from cogtune.config.geometry import NETWORK_PREFIX, latent_frames
from cogtune.config.schema.dit import DiffusionTransformerParams, LoraParams
from cogtune.errors import UserError
from cogtune.model import checkpointing
from cogtune.model.blocks import AdaLN, FinalLayer, TransformerLayer
from cogtune.model.checkpointing import Policy
from cogtune.model.embeddings import PatchEmbedding, ScalarEmbedding, token_grid, unpatchify
from cogtune.model.positions import PositionEmbedding, Rotation


class Transformer(nn.Module):
    """The layers, and the unused table of upstream's base class."""

    def __init__(self, num_layers: int, hidden_size: int, heads: int, affine: bool, unused_positions: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(hidden_size, heads, affine) for _ in range(num_layers))
        self.final_layernorm = nn.LayerNorm(hidden_size, eps=1e-5, elementwise_affine=affine)
        if unused_positions:  # rotary checkpoints contain this table, which is not used in the forward pass
            self.position_embeddings = nn.Embedding(unused_positions, hidden_size).requires_grad_(False)


class Mixins(nn.Module):
    """The modules that upstream calls mixins; each is a `{target, params}` node of the config."""

    def __init__(
        self,
        patch_embed: PatchEmbedding,
        pos_embed: PositionEmbedding,
        adaln_layer: AdaLN,
        final_layer: FinalLayer,
    ) -> None:
        super().__init__()
        self.patch_embed, self.pos_embed = patch_embed, pos_embed
        self.adaln_layer, self.final_layer = adaln_layer, final_layer


class DiffusionTransformer(nn.Module):
    """v-prediction network over latent videos (CogVideoX, arXiv:2408.06072)."""

    checkpoint_prefix = NETWORK_PREFIX

    def __init__(self, params: DiffusionTransformerParams) -> None:
        super().__init__()
        _check_widths(params)
        self.params = p = params
        D, E, affine = p.hidden_size, p.time_embed_dim or p.hidden_size, p.elementwise_affine
        heads, head_size = p.num_attention_heads, p.hidden_size // p.num_attention_heads
        patch = self.patch_size = patch_of(p)
        nodes = p.modules
        pos_embed = build(
            nodes["pos_embed_config"],
            grid=(
                latent_frames(p.num_frames, p.time_compressed_rate),
                p.latent_height // patch[1],
                p.latent_width // patch[2],
            ),
            hidden_size=D,
            head_size=head_size,
            interpolation=(p.time_interpolation, p.height_interpolation, p.width_interpolation),
        )
        unused = p.transformer_args.max_sequence_length if pos_embed.params.rotates else 0

        self.time_embed = ScalarEmbedding(D, E)
        self.ofs_embed = ScalarEmbedding(p.ofs_embed_dim, E) if p.ofs_embed_dim else None
        self.transformer = Transformer(p.num_layers, D, heads, affine, unused)
        self.mixins = Mixins(
            build(nodes["patch_embed_config"], in_channels=p.in_channels, hidden_size=D, patch_size=patch),
            pos_embed,
            build(
                nodes["adaln_layer_config"],
                num_layers=p.num_layers,
                hidden_size=D,
                head_size=head_size,
                emb_dim=E,
                affine=affine,
            ),
            build(
                nodes["final_layer_config"],
                hidden_size=D,
                emb_dim=E,
                patch_features=p.out_channels * math.prod(patch),
                affine=affine,
            ),
        )
        self.reset_parameters()
        self.checkpoint_activations = p.transformer_args.checkpoint_activations
        self.lora: LoraParams | None = None
        if nodes.get("lora_config"):
            self.lora = params_of(nodes["lora_config"])
            build(nodes["lora_config"]).wrap(list(self.transformer.layers))

    def reset_parameters(self) -> None:
        """Upstream's initialisation. The modulation keeps torch's default, so gates do not start at zero."""
        out_std = 0.02 / math.sqrt(2 * self.params.num_layers)
        for name, module in self.transformer.named_modules():
            if isinstance(module, nn.Linear):
                branch_end = name.endswith(("attention.dense", "dense_4h_to_h"))
                nn.init.normal_(module.weight, std=out_std if branch_end else 0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        self.mixins.patch_embed.reset_parameters()
        self.mixins.final_layer.reset_parameters()

    def derived_state(self) -> dict[str, Tensor]:
        """Entries of the state dict that are computed or unused; some formats contain only learned weights."""
        pos = self.mixins.pos_embed
        derived = {f"mixins.pos_embed.{name}": tensor for name, tensor in pos.computed_state().items()}
        if pos.params.rotates:
            unused = self.transformer.position_embeddings.weight
            derived["transformer.position_embeddings.weight"] = torch.zeros(unused.shape)
        return derived

    @property
    def checkpoint_activations(self) -> Policy:
        """Which activations the layers keep for the backward pass. Can be set at any time, also to a config value."""
        return self._policy

    @checkpoint_activations.setter
    def checkpoint_activations(self, value: Policy | bool | str) -> None:
        self._policy = Policy.of(value)

    @property
    def dtype(self) -> torch.dtype:
        return self.mixins.patch_embed.proj.weight.dtype

    def forward(
        self,
        x_BTCHW: Tensor,
        timesteps_B: Tensor,
        context_BLD: Tensor,
        ofs: Tensor | float | None = None,
    ) -> Tensor:
        """v, (B, T, C_out, H, W) in the model's dtype.

        x: noisy latent; for image-to-video the condition channels follow the noise channels on axis 2.
        timesteps: 0 (clean) to 999 (noise). context: caption embeddings, padded to the trained length.
        ofs: a number, (1,) or (B,), for the 1.5 image-to-video model, default 2.0. Other models ignore it.
        Raises: UserError for sizes that do not fit the model.
        """
        self._check(x_BTCHW, timesteps_B, context_BLD)
        grid, L = token_grid(x_BTCHW, self.patch_size), context_BLD.shape[1]
        emb_BE = self._embed_scalars(timesteps_B, ofs, x_BTCHW.device)
        rotation = self.mixins.pos_embed.rotation(grid, L, x_BTCHW.device)

        h_BND = self.mixins.patch_embed(x_BTCHW.to(self.dtype), context_BLD.to(self.dtype))
        h_BND = self.mixins.pos_embed(h_BND, grid)
        for i in range(len(self.transformer.layers)):
            h_BND = self._checkpointed(self._layer, i, h_BND, emb_BE, rotation, L)
        video_BND = self.transformer.final_layernorm(h_BND[:, L:])
        return unpatchify(self.mixins.final_layer(video_BND, emb_BE), grid, self.patch_size)

    def _checkpointed(self, layer: Callable[..., Tensor], *inputs: Any) -> Tensor:
        rank, dropout = (self.lora.r, self.lora.lora_dropout) if self.lora else (None, 0.0)
        return checkpointing.run(self._policy, layer, *inputs, adapter_rank=rank, has_dropout=dropout > 0)

    def _layer(self, i: int, h_BND: Tensor, emb_BE: Tensor, rotation: Rotation | None, L: int) -> Tensor:
        adaln = self.mixins.adaln_layer
        return self.transformer.layers[i](h_BND, L, adaln.modulation(i, emb_BE), adaln.norms(i), rotation)

    def _embed_scalars(self, timesteps_B: Tensor, ofs: Tensor | float | None, device: torch.device) -> Tensor:
        emb_BE = self.time_embed(timesteps_B.to(device))
        if self.ofs_embed is None:
            return emb_BE
        number = 2.0 if ofs is None else ofs
        # Created on the device: a copy from the CPU would synchronise.
        ofs_B = number if isinstance(number, Tensor) else torch.full((1,), number, device=device)
        return emb_BE + self.ofs_embed(ofs_B.to(device).reshape(-1))

    def _check(self, x_BTCHW: Tensor, timesteps_B: Tensor, context_BLD: Tensor) -> None:
        p = self.params
        if x_BTCHW.ndim != 5 or x_BTCHW.shape[2] != p.in_channels:
            raise UserError(
                f"latent of shape {tuple(x_BTCHW.shape)}; expected (B, T, C, H, W) with "
                f"C = in_channels = {p.in_channels}"
            )
        width = self.mixins.patch_embed.text_proj.in_features
        batch = x_BTCHW.shape[0]
        if context_BLD.ndim != 3 or context_BLD.shape[0] != batch or context_BLD.shape[2] != width:
            raise UserError(
                f"context of shape {tuple(context_BLD.shape)}; expected (B, L, D) with B = {batch}, "
                f"D = text_hidden_size = {width}"
            )
        if timesteps_B.shape != (batch,):
            raise UserError(f"timesteps of shape {tuple(timesteps_B.shape)}; expected ({batch},), one per sample")


def patch_of(params: DiffusionTransformerParams) -> tuple[int, int, int]:
    """(t, h, w) of a patch; the config check has already converted a single number n to [1, n, n]."""
    size = params.patch_size
    if isinstance(size, int) or len(size) != 3:
        raise UserError(
            f"network_config.params.patch_size: {size}; expected one integer, or three: frames, rows, columns"
        )
    return size[0], size[1], size[2]


def _check_widths(p: DiffusionTransformerParams) -> None:
    if p.hidden_size % p.num_attention_heads:
        raise UserError(f"hidden_size {p.hidden_size} is not a multiple of num_attention_heads {p.num_attention_heads}")
    width = p.time_embed_dim or p.hidden_size
    if p.ofs_embed_dim not in (None, width):
        raise UserError(f"ofs_embed_dim {p.ofs_embed_dim} is added to the timestep embedding; expected {width}")
