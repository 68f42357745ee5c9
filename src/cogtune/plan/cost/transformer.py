"""Cost of the diffusion transformer: names and shapes of its parameters, tokens, and FLOPs.

``D``: hidden size, ``E``: width of the conditioning vector, ``N``: tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from cogtune.checkpoints.shapes import derived_names, shapes_of
from cogtune.config.build import params_of
from cogtune.config.geometry import NETWORK_PREFIX, latent_size
from cogtune.config.schema.checkpointing import Policy
from cogtune.config.schema.dit import (
    AdaLNParams,
    DiffusionTransformerParams,
    LoraParams,
    PatchEmbeddingParams,
    PositionParams,
)
from cogtune.work.stage_input import Node


@dataclass(frozen=True)
class Parameter:
    """One tensor of the network. ``fixed``: a computed table, which is never trained."""

    name: str
    shape: tuple[int, ...]
    fixed: bool = False

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def adapter(self) -> bool:
        return "matrix_" in self.name


@dataclass(frozen=True)
class Grid:
    """The sequence of one clip: ``text`` tokens, then ``video`` tokens. ``latent``: (T, H, W), with padding in T."""

    text: int
    video: int
    latent: tuple[int, int, int]

    @property
    def tokens(self) -> int:
        return self.text + self.video


class Network:
    """A `network_config` node. ``frozen``: `not_trainable_prefixes`. Raises ConfigErrors for an invalid node."""

    def __init__(self, node: Node, frozen: Sequence[str] = ()) -> None:
        self._node = node
        self._frozen = tuple(frozen)
        p = params_of(node, DiffusionTransformerParams)
        self.params = p
        self.layers, self.width, self.heads = p.num_layers, p.hidden_size, p.num_attention_heads
        self.embedding = p.time_embed_dim or self.width
        assert isinstance(p.patch_size, list)  # canonical
        self.patch: tuple[int, int, int] = (p.patch_size[0], p.patch_size[1], p.patch_size[2])
        positions = params_of(p.modules["pos_embed_config"], PositionParams)
        modulation = params_of(p.modules["adaln_layer_config"], AdaLNParams)
        patches = params_of(p.modules["patch_embed_config"], PatchEmbeddingParams)
        lora = p.modules.get("lora_config")
        self.rotary, self.qk_norm, self.text_width = positions.rotates, modulation.qk_ln, patches.text_hidden_size
        self.lora: LoraParams | None = params_of(lora) if lora else None

    @property
    def checkpointing(self) -> Policy:
        """The policy of activation checkpointing."""
        return Policy.of(self.params.transformer_args.checkpoint_activations)

    @property
    def rank(self) -> int:
        """Rank of the adapters; 0 without adapters."""
        return self.lora.r if self.lora else 0

    def adapted(self, layer: int) -> bool:
        """Whether a layer has adapters."""
        return self.lora is not None and (self.lora.layer_range is None or layer in self.lora.layer_range)

    @cached_property
    def parameters(self) -> list[Parameter]:
        """All parameters, with their names in `DiffusionTransformer`."""
        derived, shapes = derived_names(self._node), shapes_of(self._node) or {}
        return [Parameter(name, shape, fixed=name in derived) for name, shape in shapes.items()]

    @cached_property
    def trained(self) -> list[Parameter]:
        """The parameters that get a gradient."""
        return [one for one in self.parameters if self.trains(one)]

    def trains(self, parameter: Parameter) -> bool:
        """Whether the config trains this parameter."""
        name = NETWORK_PREFIX + parameter.name
        frozen = any(prefix == "all" or name.startswith(prefix) for prefix in self._frozen)
        return parameter.adapter or not (parameter.fixed or frozen)

    @property
    def count(self) -> int:
        return sum(one.count for one in self.parameters)

    @property
    def trained_count(self) -> int:
        return sum(one.count for one in self.trained)

    def grid(self, height: int, width: int, frames: int, text: int) -> Grid:
        """The sequence of a clip of ``frames`` x ``height`` x ``width`` pixels after ``text`` tokens. Latent frames are
        padded to a multiple of the temporal patch, as in training."""
        o, p, q = self.patch
        T, H, W = latent_size(frames, height, width)
        T = -(-T // o) * o
        return Grid(text, (T // o) * (H // p) * (W // q), (T, H, W))

    def flops(self, grid: Grid) -> float:
        """One forward pass of one clip. A multiply-add counts as two; norms, softmax and positions are not counted."""
        return self._products(grid) + self._adapters(grid) + self._attention(grid)

    def model_flops(self, grid: Grid) -> float:
        """Forward and backward pass of one clip, without anything that is computed twice: what MFU counts. The backward pass
        of a matrix product costs one product for the gradient of its input, and another for the gradient of its weights
        if they train. That of attention costs 2 forward passes."""
        weights = [one for one in self.parameters if not (one.fixed or one.adapter)]
        share = sum(one.count for one in weights if self.trains(one)) / sum(one.count for one in weights)
        return (2 + share) * self._products(grid) + 3 * self._adapters(grid) + 3 * self._attention(grid)

    def training_flops(self, grid: Grid) -> float:
        """Forward and backward pass of one clip, as computed: the backward pass of attention recomputes the scores, half a
        forward pass (FlashAttention-2, arXiv:2307.08691), and recomputed activations are added."""
        passes = self.model_flops(grid) + 0.5 * self._attention(grid)
        recomputed = {
            Policy.FULL: self.flops(grid),
            Policy.ATTENTION: self._products(grid) + self._adapters(grid),
            Policy.SELECTIVE: self._adapters(grid),
            Policy.NONE: 0.0,
        }
        return passes + recomputed[self.checkpointing]

    def _products(self, grid: Grid) -> float:
        """FLOPs of matrix products: 2 x (q, k, v, dense: 4 D^2; MLP: 8 D^2) per token and block, embeddings, and final
        layer."""
        N, D, E = grid.tokens, self.width, self.embedding
        patches = 2 * D * grid.video * (self.params.in_channels + self.params.out_channels) * math.prod(self.patch)
        return self.layers * (24 * N * D**2 + 24 * E * D) + patches + 2 * D * grid.text * self.text_width

    def _attention(self, grid: Grid) -> float:
        """FLOPs of scores and of the weighted sum of values."""
        return self.layers * 4 * grid.tokens**2 * self.width

    def _adapters(self, grid: Grid) -> float:
        return sum(16 * grid.tokens * self.width * self.rank for i in range(self.layers) if self.adapted(i))
