"""Components of the stages' costs: sizes of networks, clips and batches of a config. `stage_costs.py` combines them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from cogtune.config import registry
from cogtune.config.build import params_of, section_of
from cogtune.config.geometry import latent_frames, latent_size, pixel_frames
from cogtune.config.schema.deepspeed import DeepSpeedSection
from cogtune.config.schema.text import T5EmbedderParams
from cogtune.plan.cost.autoencoder import Autoencoder
from cogtune.plan.cost.text_encoder import TextEncoder
from cogtune.plan.cost.transformer import Grid, Network
from cogtune.work.inputs import PreprocessInput, TextInput, TrainInput
from cogtune.work.stage_input import Node, identity, read_input

_EVALUATED_AT_ONCE, _LATENTS_AT_ONCE = 4, 1200
"""Clips, and latent positions, decoded in one call (stages/evaluate.py, sampling/generate.py)."""
_MODULES = {
    "pos_embed_config": "positions",
    "patch_embed_config": "patch embedding",
    "adaln_layer_config": "modulation",
    "final_layer_config": "final layer",
    "lora_config": "lora",
}
"""Role of each part of the network."""
Input = TypeVar("Input")


@dataclass(frozen=True)
class _NetworkInput:
    """The keys of the network's cost. Unlike a stage's input, it can be read from the keys of an earlier run."""

    network: Node = identity("model.network_config")
    frozen_prefixes: list[str] = identity("model.not_trainable_prefixes")


@dataclass(frozen=True)
class _AutoencoderInput:
    """The keys of the VAE's cost."""

    vae: Node = identity("model.first_stage_config")


class Unmodelled(Exception):  # noqa: N818  not an error: there is only no estimate
    """A plugin, or a stage, without cost model."""


class Costs:
    """Sizes of one config. ``values``: canonical values, or those that an earlier run read. ``model_dir``: folder of the
    T5, whose config.json is read.

    Methods raise `Unmodelled` if the config names a component that is not cogtune's, and UserError if ``values`` lacks a
    required key.
    """

    def __init__(self, values: Mapping[str, Any], model_dir: str | None = None) -> None:
        self.values, self.model_dir = values, model_dir

    def input(self, kind: type[Input]) -> Input:
        """The input of a stage. Raises UserError if a required value is missing."""
        return read_input(kind, self.values)

    @cached_property
    def train(self) -> TrainInput:
        """The input of train."""
        return self.input(TrainInput)

    @cached_property
    def deepspeed(self) -> DeepSpeedSection:
        """The `deepspeed` section of train."""
        optimizer = self.train.deepspeed.get("optimizer") or {}
        if "type" in optimizer:
            require_ours({"target": optimizer["type"]}, "optimizer")
        return section_of(DeepSpeedSection, self.train.deepspeed, "deepspeed")

    @cached_property
    def network(self) -> Network:
        settings = self.input(_NetworkInput)
        node = settings.network
        require_ours(node, "network")
        for name, role in _MODULES.items():
            if part := node["params"]["modules"].get(name):
                require_ours(part, role)
        return Network(node, settings.frozen_prefixes)

    @cached_property
    def vae(self) -> Autoencoder:
        node = self.input(_AutoencoderInput).vae
        require_ours(node, "autoencoder")
        require_ours(node["params"]["encoder_config"], "encoder")
        require_ours(node["params"]["decoder_config"], "decoder")
        return Autoencoder(node)

    @cached_property
    def text(self) -> TextEncoder:
        return TextEncoder.of(self.model_dir or self._embedder.model_dir)

    @cached_property
    def _embedder(self) -> T5EmbedderParams:
        conditioner = self.input(TextInput).conditioner
        require_ours(conditioner, "conditioner")
        (embedder,) = conditioner["params"]["emb_models"]
        require_ours(embedder, "embedder")
        return params_of(embedder)

    @property
    def tokens_of_text(self) -> int:
        return self._embedder.max_length

    @property
    def clip(self) -> tuple[int, int, int]:
        """(frames, height, width) of a clip in pixels, with 4k + 1 frames."""
        settings = self.input(PreprocessInput)
        height, width = settings.video_size
        return pixel_frames(latent_frames(settings.max_num_frames)), height, width

    def tile(self, coder: str) -> tuple[int, int, int]:
        """(frames, height, width) of the VAE's tiles, or of the whole clip. ``coder``: encode, decode."""
        frames, *size = self.clip
        params = self.vae.params
        tile = (params.encode_tile_size if coder == "encode" else params.decode_tile_size) or size
        height, width = (min(pair) for pair in zip(size, tile, strict=True))
        return frames, height, width

    @cached_property
    def grid(self) -> Grid:
        frames, height, width = self.clip
        return self.network.grid(height, width, frames, self.tokens_of_text)

    @property
    def pixels(self) -> int:
        """Pixels of one clip."""
        frames, height, width = self.clip
        return frames * height * width

    @property
    def latents(self) -> int:
        """Positions in the latent of one clip."""
        return math.prod(latent_size(*self.clip))

    @property
    def only_adapters(self) -> bool:
        """Whether only adapters train."""
        return all(one.adapter for one in self.network.trained)

    def decoding_bytes(self, width: int) -> float:
        """Peak memory of decoding, with the VAE. ``width``: bytes per number."""
        at_once = max(1, min(_EVALUATED_AT_ONCE, _LATENTS_AT_ONCE // self.latents))
        return self.vae.decode_bytes(*self.tile("decode"), at_once, width)


def require_ours(node: Mapping[str, Any], role: str) -> None:
    """Raise Unmodelled if the component is a plugin class, or has another role."""
    if node["target"] not in registry.names(role):
        raise Unmodelled(node["target"])
