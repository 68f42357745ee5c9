"""The diffusion transformer in numbers: names and shapes of its parameters, tokens, FLOPs, bytes kept for backward.

Everything is read from the canonical `network_config` node. ``D`` hidden, ``E`` conditioning vector, ``N`` tokens.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cogtune.config.schema.checkpointing import Policy

PREFIX = "model.diffusion_model."
"""What `not_trainable_prefixes` puts before a parameter's name."""
PIXELS_PER_LATENT = 8
FRAMES_PER_LATENT = 4
_PARTS = {"query_key_value": 3, "dense": 1}


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

    def __init__(self, node: Mapping[str, Any], frozen: Sequence[str] = (), lora_only: bool = False) -> None:
        self.params: Mapping[str, Any] = node["params"]
        self._frozen = ("all",) if lora_only else tuple(frozen)
        p = self.params
        self.layers, self.width, self.heads = p["num_layers"], p["hidden_size"], p["num_attention_heads"]
        self.embedding = p.get("time_embed_dim") or self.width
        size = p["patch_size"]
        self.patch: tuple[int, int, int] = (1, size, size) if isinstance(size, int) else tuple(size)
        modules = p["modules"]
        self.positions: Mapping[str, Any] = modules["pos_embed_config"]
        self.qk_norm: bool = (modules["adaln_layer_config"].get("params") or {}).get("qk_ln", True)
        self.text_width: int = modules["patch_embed_config"]["params"]["text_hidden_size"]
        self.lora: Mapping[str, Any] | None = (modules.get("lora_config") or {}).get("params")

    @property
    def rotary(self) -> bool:
        return "Rotary" in self.positions["target"]

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
        return [*self._ends(), *(one for i in range(self.layers) for one in self._layer(i))]

    @cached_property
    def trained(self) -> list[Parameter]:
        """Those that get a gradient."""
        return [one for one in self.parameters if self.trains(one)]

    def trains(self, parameter: Parameter) -> bool:
        """Whether the config lets it train."""
        name = PREFIX + parameter.name
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
        latents = (frames - 1) // FRAMES_PER_LATENT + 1
        o, p, q = self.patch
        T, H, W = -(-latents // o) * o, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT
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

    def _ends(self) -> Iterator[Parameter]:
        D, E, p = self.width, self.embedding, self.params
        yield from _scalar("time_embed", D, E)
        if p.get("ofs_embed_dim"):
            yield from _scalar("ofs_embed", p["ofs_embed_dim"], E)
        yield from self._norm("transformer.final_layernorm", D)
        if self.rotary:
            rows = (p.get("transformer_args") or {}).get("max_sequence_length", 64)
            yield Parameter("transformer.position_embeddings.weight", (rows, D), fixed=True)
        features = math.prod(self.patch)
        yield from _linear("mixins.patch_embed.proj", p["in_channels"] * features, D)
        yield from _linear("mixins.patch_embed.text_proj", self.text_width, D)
        positions = self.positions.get("params") or {}
        if not self.rotary or positions.get("learnable_pos_embed"):
            rows = positions.get("text_length", 0) + self._configured_video_tokens()
            yield Parameter("mixins.pos_embed.pos_embedding", (1, rows, D), fixed=not self.rotary)
        yield from self._norm("mixins.final_layer.norm_final", D)
        yield from _linear("mixins.final_layer.linear", D, p["out_channels"] * features)
        yield from _linear("mixins.final_layer.adaLN_modulation.1", E, 2 * D)

    def _configured_video_tokens(self) -> int:
        """Rows of a position table: the patches of the size that the network is configured for."""
        p, (_, h, w) = self.params, self.patch
        # The table counts latent frames, whatever the temporal patch.
        frames = (p["num_frames"] - 1) // p["time_compressed_rate"] + 1
        return frames * (p["latent_height"] // h) * (p["latent_width"] // w)

    def _layer(self, i: int) -> Iterator[Parameter]:
        D, at = self.width, f"transformer.layers.{i}"
        yield from self._norm(f"{at}.input_layernorm", D)
        yield from self._norm(f"{at}.post_attention_layernorm", D)
        for name, parts in _PARTS.items():
            yield from self._projection(f"{at}.attention.{name}", parts, self.adapted(i))
        yield from _linear(f"{at}.mlp.dense_h_to_4h", D, 4 * D)
        yield from _linear(f"{at}.mlp.dense_4h_to_h", 4 * D, D)
        yield from _linear(f"mixins.adaln_layer.adaLN_modulations.{i}.1", self.embedding, 12 * D)
        if self.qk_norm:
            for name in ("query", "key"):
                yield from self._norm(f"mixins.adaln_layer.{name}_layernorm_list.{i}", D // self.heads)

    def _projection(self, name: str, parts: int, adapted: bool) -> Iterator[Parameter]:
        D = self.width
        yield from _linear(f"{name}.original" if adapted else name, D, parts * D)
        if adapted and self.lora is not None:
            for j in range(parts):
                yield Parameter(f"{name}.matrix_A.{j}", (self.lora["r"], D))
                yield Parameter(f"{name}.matrix_B.{j}", (D, self.lora["r"]))

    def _norm(self, name: str, width: int) -> Iterator[Parameter]:
        if self.params.get("elementwise_affine", True):
            yield Parameter(f"{name}.weight", (width,))
            yield Parameter(f"{name}.bias", (width,))


def _linear(name: str, inputs: int, outputs: int) -> Iterator[Parameter]:
    yield Parameter(f"{name}.weight", (outputs, inputs))
    yield Parameter(f"{name}.bias", (outputs,))


def _scalar(name: str, inputs: int, outputs: int) -> Iterator[Parameter]:
    """sinusoid, Linear, SiLU, Linear."""
    yield from _linear(f"{name}.0", inputs, outputs)
    yield from _linear(f"{name}.2", outputs, outputs)
