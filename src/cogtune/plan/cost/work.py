"""Components of the stages' costs: sizes of a config's networks, clips and batches (`stage_costs.py` adds them up)."""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeVar

from cogtune.config import registry
from cogtune.config.geometry import latent_frames, latent_size, pixel_frames
from cogtune.plan.cost.autoencoder import Autoencoder
from cogtune.plan.cost.text_encoder import TextEncoder
from cogtune.plan.cost.transformer import Grid, Network
from cogtune.work.inputs import PreprocessInput, TextInput, TrainInput
from cogtune.work.stage_input import default_of, read_input

_EVALUATED_AT_ONCE, _LATENTS_AT_ONCE = 4, 1200
"""Clips, and latent positions, that are decoded in one call (stages/evaluate.py, sampling/generate.py)."""
_MODULES = {
    "pos_embed_config": "positions",
    "patch_embed_config": "patch embedding",
    "adaln_layer_config": "modulation",
    "final_layer_config": "final layer",
    "lora_config": "lora",
}
"""Part of the network -> its role."""
Input = TypeVar("Input")


class Unmodelled(Exception):  # noqa: N818  nothing went wrong: there is only no figure
    """A plugin, or a stage, without cost model."""


class Costs:
    """Sizes under one config: canonical values, or what the jobs of an earlier run read of theirs. ``model_dir``: the T5's
    folder, where its config.json is read.

    Methods raise `Unmodelled` where the config names a component that is not cogtune's.
    """

    def __init__(self, values: Mapping[str, Any], model_dir: str | None = None) -> None:
        self.values, self._model_dir = values, model_dir

    def input(self, kind: type[Input]) -> Input:
        """What a stage would be given. Raises UserError for a value that must be set and is not."""
        return read_input(kind, self.values)

    @cached_property
    def train(self) -> TrainInput:
        """What train would be given."""
        return self.input(TrainInput)

    @cached_property
    def network(self) -> Network:
        model = self.values["model"]
        node = model["network_config"]
        require_ours(node, "network")
        for name, role in _MODULES.items():
            if part := node["params"]["modules"].get(name):
                require_ours(part, role)
        return Network(node, model.get("not_trainable_prefixes", default_of("model.not_trainable_prefixes")))

    @cached_property
    def vae(self) -> Autoencoder:
        node = self.values["model"]["first_stage_config"]
        require_ours(node, "autoencoder")
        require_ours(node["params"]["encoder_config"], "encoder")
        require_ours(node["params"]["decoder_config"], "decoder")
        return Autoencoder(node)

    @cached_property
    def text(self) -> TextEncoder:
        return TextEncoder.of(self._model_dir or self._embedder.get("model_dir") or "")

    @property
    def _embedder(self) -> Mapping[str, Any]:
        conditioner = self.input(TextInput).conditioner
        require_ours(conditioner, "conditioner")
        (node,) = conditioner["params"]["emb_models"]
        require_ours(node, "embedder")
        return node["params"]

    @property
    def tokens_of_text(self) -> int:
        return self._embedder["max_length"]

    @property
    def clip(self) -> tuple[int, int, int]:
        """(frames, height, width) of a clip in pixels; frames 4k + 1."""
        given = self.input(PreprocessInput)
        height, width = given.video_size
        return pixel_frames(latent_frames(given.max_num_frames)), height, width

    def tile(self, coder: str) -> tuple[int, int, int]:
        """(frames, height, width) that the VAE computes at once, as far as its tiles bound it; ``coder``: encode, decode."""
        frames, *size = self.clip
        tile = self.values["model"]["first_stage_config"]["params"].get(f"{coder}_tile_size") or size
        height, width = (min(pair) for pair in zip(size, tile, strict=True))
        return frames, height, width

    @cached_property
    def grid(self) -> Grid:
        frames, height, width = self.clip
        return self.network.grid(height, width, frames, self.tokens_of_text)

    @property
    def pixels(self) -> int:
        """Of one clip."""
        frames, height, width = self.clip
        return frames * height * width

    @property
    def latents(self) -> int:
        """Positions of one clip's latent."""
        return math.prod(latent_size(*self.clip))

    @property
    def only_adapters(self) -> bool:
        """Whether nothing else trains."""
        return all(one.adapter for one in self.network.trained)

    def decoding_bytes(self, width: int) -> float:
        """Peak of a decoding with numbers of ``width`` bytes, the VAE included."""
        at_once = max(1, min(_EVALUATED_AT_ONCE, _LATENTS_AT_ONCE // self.latents))
        return self.vae.decode_bytes(*self.tile("decode"), at_once, width)


def require_ours(node: Mapping[str, Any], role: str) -> None:
    """Raises Unmodelled unless the component is one of cogtune's own of this role, and no class of a plugin."""
    if node["target"] not in registry.names(role):
        raise Unmodelled(node["target"])
