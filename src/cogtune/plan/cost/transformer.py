"""Cost of the diffusion transformer: names and shapes of its parameters, tokens, FLOPs, bytes kept for backward.

Everything is read from the canonical `network_config` node. ``D`` hidden, ``E`` conditioning vector, ``N`` tokens.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cogtune.checkpoints.shapes import derived_names, shapes_of
from cogtune.config.build import params_of
from cogtune.config.geometry import NETWORK_PREFIX, latent_size
from cogtune.config.schema.checkpointing import Policy


@dataclass(frozen=True)
class Parameter:
    """One tensor of the network. ``fixed``: never trained, whatever the config says."""

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
    """The sequence of one clip: ``text`` tokens, then ``video`` tokens. ``latent`` is (T, H, W), T as padded."""

    text: int
    video: int
    latent: tuple[int, int, int]

    @property
    def tokens(self) -> int:
        return self.text + self.video


class Network:
    """A `network_config` node, and what is frozen of it: ``frozen`` is `not_trainable_prefixes`."""

    def __init__(self, node: Mapping[str, Any], frozen: Sequence[str] = ()) -> None:
        self._node = dict(node)
        self.params: Mapping[str, Any] = node["params"]
        self._frozen = tuple(frozen)
        p = self.params
        self.layers, self.width, self.heads = p["num_layers"], p["hidden_size"], p["num_attention_heads"]
        self.embedding = p.get("time_embed_dim") or self.width
        size = p["patch_size"]
        self.patch: tuple[int, int, int] = (1, size, size) if isinstance(size, int) else tuple(size)
        modules = p["modules"]
        self.rotary: bool = params_of(modules["pos_embed_config"]).rotates
        self.qk_norm: bool = (modules["adaln_layer_config"].get("params") or {}).get("qk_ln", True)
        self.text_width: int = modules["patch_embed_config"]["params"]["text_hidden_size"]
        self.lora: Mapping[str, Any] | None = (modules.get("lora_config") or {}).get("params")

    @property
    def checkpointing(self) -> Policy:
        """What is kept for the backward pass."""
        return Policy.of((self.params.get("transformer_args") or {}).get("checkpoint_activations", False))

    def adapted(self, layer: int) -> bool:
        """Whether a layer has adapters."""
        chosen = self.lora.get("layer_range") if self.lora else ()
        return self.lora is not None and (chosen is None or layer in chosen)

    @cached_property
    def parameters(self) -> list[Parameter]:
        """Every parameter, by the name that it has in `DiffusionTransformer`."""
        derived, shapes = derived_names(self._node), shapes_of(self._node) or {}
        return [Parameter(name, shape, fixed=name in derived) for name, shape in shapes.items()]

    @cached_property
    def trained(self) -> list[Parameter]:
        """Those that get a gradient."""
        return [one for one in self.parameters if self.trains(one)]

    def trains(self, parameter: Parameter) -> bool:
        """Whether the config lets it train."""
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
        """The sequence of a clip of ``frames`` x ``height`` x ``width`` pixels behind ``text`` tokens. Latent frames that
        the temporal patch does not divide are padded in front, as training does."""
        o, p, q = self.patch
        T, H, W = latent_size(frames, height, width)
        T = -(-T // o) * o
        return Grid(text, (T // o) * (H // p) * (W // q), (T, H, W))

    def flops(self, grid: Grid) -> float:
        """One forward pass of one clip; a multiply-add counts as two. Norms, softmax and positions are left out."""
        return self._products(grid) + self._adapters(grid) + self._attention(grid)

    def training_flops(self, grid: Grid) -> float:
        """Forward and backward of one clip. Backward costs a product as much again for the gradient of its input, and once
        more for that of its weights if they train; attention 2.5 times as much, since it computes its scores anew
        (FlashAttention-2, arXiv:2307.08691). What is not kept is computed once more."""
        weights = [one for one in self.parameters if not (one.fixed or one.adapter)]
        share = sum(one.count for one in weights if self.trains(one)) / sum(one.count for one in weights)
        passes = (2 + share) * self._products(grid) + 3 * self._adapters(grid) + 3.5 * self._attention(grid)
        again = {
            Policy.FULL: self.flops(grid),
            Policy.ATTENTION: self._products(grid) + self._adapters(grid),
            Policy.SELECTIVE: self._adapters(grid),
            Policy.NONE: 0.0,
        }
        return passes + again[self.checkpointing]

    def _products(self, grid: Grid) -> float:
        """Of the matrices: 2 x (q, k, v, dense: 4 D^2; MLP: 8 D^2) a token and block, and both ends."""
        N, D, E = grid.tokens, self.width, self.embedding
        patches = (
            2 * D * grid.video * (self.params["in_channels"] + self.params["out_channels"]) * math.prod(self.patch)
        )
        return self.layers * (24 * N * D**2 + 24 * E * D) + patches + 2 * D * grid.text * self.text_width

    def _attention(self, grid: Grid) -> float:
        """Scores, and the weighted sum of values."""
        return self.layers * 4 * grid.tokens**2 * self.width

    def _adapters(self, grid: Grid) -> float:
        rank = self.lora["r"] if self.lora else 0
        return sum(16 * grid.tokens * self.width * rank for i in range(self.layers) if self.adapted(i))
