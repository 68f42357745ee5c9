"""What one unit of each stage costs: floating point operations, bytes on the device, bytes on the disk.

A unit is a clip, a caption, an optimizer step or a sampled video (`plan.counts.UNITS`). ``values`` is a canonical config.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from cogtune.config.errors import ConfigError
from cogtune.config.registry import canonical
from cogtune.config.schema.args import WHOLE_FORMATS
from cogtune.plan.cost.activations import activations
from cogtune.plan.cost.autoencoder import Autoencoder
from cogtune.plan.cost.text_encoder import TextEncoder
from cogtune.plan.cost.training import element_bytes, memory, optimizer_states
from cogtune.plan.cost.transformer import Grid, Network

_FP32 = 4
_INFERENCE_UNITS = 12
"""Tensors of (batch, tokens, D) that one block holds at once without a backward pass: MLP's 4 + 4, h, its norm, branch."""
_EVALUATED_AT_ONCE, _LATENTS_AT_ONCE = 4, 1200
"""Clips, and latent positions, that are decoded in one call (stages/evaluate.py, sampling/generate.py)."""
_THUMBNAIL = 20_000
_MODULES = {
    "pos_embed_config": ("Basic3DPositionEmbedding", "Rotary3DPositionEmbedding"),
    "patch_embed_config": ("PatchEmbedding",),
    "adaln_layer_config": ("AdaLN",),
    "final_layer_config": ("FinalLayer",),
    "lora_config": ("Lora",),
}


class Unmodelled(Exception):  # noqa: N818  nothing went wrong: there is only no figure
    """A component of the user's own, of whose cost nothing is known."""


class Costs:
    """Costs of the stages under one config. ``model_dir``: the T5's folder, where its config.json is read.

    Methods raise `Unmodelled` where the config names a component that is not cogtune's.
    """

    def __init__(self, values: Mapping[str, Any], model_dir: str | None = None) -> None:
        self.values, self._model_dir = values, model_dir
        self.args: Mapping[str, Any] = values.get("args") or {}
        self.deepspeed: Mapping[str, Any] = values.get("deepspeed") or {}

    @cached_property
    def network(self) -> Network:
        model = self.values["model"]
        node = model["network_config"]
        _ours(node, "DiffusionTransformer")
        for name, known in _MODULES.items():
            _ours((node["params"]["modules"].get(name) or {"target": known[0]}), *known)
        frozen = model.get("not_trainable_prefixes") or []
        return Network(model["network_config"], frozen, bool(model.get("lora_train")))

    @cached_property
    def vae(self) -> Autoencoder:
        node = self.values["model"]["first_stage_config"]
        _ours(node, "VideoAutoencoder")
        _ours(node["params"]["encoder_config"], "Encoder3D")
        _ours(node["params"]["decoder_config"], "Decoder3D")
        return Autoencoder(node)

    @cached_property
    def text(self) -> TextEncoder:
        return TextEncoder.of(self._model_dir or self._embedder.get("model_dir") or "")

    @property
    def _embedder(self) -> Mapping[str, Any]:
        _ours(self.values["model"]["conditioner_config"], "GeneralConditioner")
        (node,) = self.values["model"]["conditioner_config"]["params"]["emb_models"]
        _ours(node, "T5Embedder")
        return node["params"]

    @property
    def tokens_of_text(self) -> int:
        return self._embedder.get("max_length") or 226

    @property
    def clip(self) -> tuple[int, int, int]:
        """(frames, height, width) of a clip in pixels; frames 4k + 1."""
        params = self.values["data"]["params"]
        height, width = params["video_size"]
        return (params["max_num_frames"] - 1) // 4 * 4 + 1, height, width

    def _tile(self, coder: str) -> tuple[int, int, int]:
        """(frames, height, width) that the VAE computes at once, as far as its tiles bound it; ``coder``: encode, decode."""
        frames, *size = self.clip
        tile = self.values["model"]["first_stage_config"]["params"].get(f"{coder}_tile_size") or size
        height, width = (min(pair) for pair in zip(size, tile, strict=True))
        return frames, height, width

    @property
    def _image_copies(self) -> int:
        return self.args.get("image_noise_draws") or 1

    @cached_property
    def grid(self) -> Grid:
        frames, height, width = self.clip
        return self.network.grid(height, width, frames, self.tokens_of_text)

    @property
    def recomputes(self) -> bool:
        """Whether activations are checkpointed; either switch turns it on."""
        return bool(self.args.get("checkpoint_activations")) or self.network.checkpointing

    @property
    def threads(self) -> int:
        """CPU threads of one rank; the other stages take those of all ranks."""
        return self.args.get("threads_per_rank") or 1

    @property
    def encoder_bytes(self) -> int:
        return 4 if self.args.get("encoder_precision") == "fp32" else 2

    @property
    def sampling_bytes(self) -> int:
        return 2 if self.args.get("bf16") or self.args.get("fp16") else 4

    def flops(self, stage: str) -> float:
        """Of one unit; 0 for what is not arithmetic."""
        if stage == "latents":
            return self.vae.encode_flops(*self.clip)
        if stage == "images":
            return self._image_copies * self.vae.encode_flops(1, *self.clip[1:])
        if stage == "text":
            return self.text.flops(self.tokens_of_text)
        if stage == "train":
            return self.args["global_batch_size"] * self.network.training_flops(self.grid, self.recomputes)
        if stage == "sample":
            passes = self.sampling_steps * (1 + self.guided)
            return passes * self.network.flops(self.grid) + self.vae.decode_flops(*self.clip)
        if stage == "evaluate":
            return self.vae.decode_flops(*self.clip)
        return 0.0

    @property
    def sampling_steps(self) -> int:
        sampler = self.values["model"]["sampler_config"]
        _ours(sampler, "VPSDEDPMPP2MSampler", "VPODEDPMPP2MSampler", "VideoDDIMSampler")
        return self.args.get("sampling_steps") or sampler["params"]["num_steps"]

    @property
    def guided(self) -> float:
        """Share of the sampled videos that need two passes of the network a step."""
        found = variants(self.args)
        return sum(found) / len(found)

    @property
    def pixels(self) -> int:
        """Of one clip."""
        frames, height, width = self.clip
        return frames * height * width

    def half(self, stage: str) -> bool:
        """Whether the stage computes in 16 bits."""
        wide = {"train": element_bytes(self.deepspeed), "sample": self.sampling_bytes}
        return wide.get(stage, self.encoder_bytes) == 2

    def device_bytes(self, stage: str, ranks: int) -> float:
        """Peak on one device: of one training rank, or of a stage that runs one copy a device. 0: needs no device."""
        if stage == "latents":
            return self.vae.encode_bytes(*self._tile("encode"), self.args.get("encode_batch") or 1, self.encoder_bytes)
        if stage == "images":
            return self.vae.encode_bytes(1, *self._tile("encode")[1:], self._image_copies, self.encoder_bytes)
        if stage == "text":
            return self.text.bytes(self.tokens_of_text, self.args.get("text_batch") or 1, self.encoder_bytes)
        if stage == "train":
            _ours(
                {"target": (self.deepspeed.get("optimizer") or {}).get("type", "AdamW")},
                "FusedEmaAdam",
                "AdamW",
                "Adam",
            )
            held = memory(self.network, self.deepspeed, ranks)
            return held.device + self._activation_bytes(ranks)
        if stage == "sample":
            return self._sampling_bytes()
        if stage == "evaluate":
            return self.vae.decode_bytes(*self._tile("decode"), self._decoded_at_once(), self.encoder_bytes)
        return 0.0

    def host_bytes(self, stage: str, ranks: int) -> float:
        """CPU memory at the peak, of all processes together: networks are built on the CPU, one in every training rank, in
        fp32 if their weights are drawn or an experiment's, else in the type they run in; an export holds one in fp32 for a
        LoRA, and beside it a second with its file for a whole network; offload keeps its share there."""
        count, from_file = float(self.network.count), isinstance(self.args.get("load"), str)
        if stage == "train":
            network = count * (element_bytes(self.deepspeed) if from_file else _FP32)
            return ranks * max(network, memory(self.network, self.deepspeed, ranks).host)
        whole = not self._only_adapters or set(WHOLE_FORMATS) & set(self.args.get("export_formats") or [])
        sampled = count * (self.sampling_bytes if from_file else _FP32)
        return {"export": _FP32 * count * (3 if whole else 1), "sample": sampled}.get(stage, 0.0)

    @property
    def _only_adapters(self) -> bool:
        return all(one.adapter for one in self.network.trained)

    def micro_batch(self, ranks: int) -> int:
        """Clips that one rank computes at once, as `config.batches.plan_batches` decides."""
        micro = self.deepspeed.get("train_micro_batch_size_per_gpu") or self.args.get("batch_size") or 1
        return max(1, min(micro, (self.args.get("global_batch_size") or micro * ranks) // ranks))

    def _activation_bytes(self, ranks: int) -> float:
        width = element_bytes(self.deepspeed)
        return activations(self.network, self.grid, self.micro_batch(ranks), width, self.recomputes).peak

    def _decoded_at_once(self) -> int:
        frames, height, width = self.clip
        latents = ((frames - 1) // 4 + 1) * (height // 8) * (width // 8)
        return max(1, min(_EVALUATED_AT_ONCE, _LATENTS_AT_ONCE // latents))

    def _sampling_bytes(self) -> float:
        batch = (self.args.get("sampling_batch") or 1) * (2 if self.guided else 1)
        unit = batch * self.grid.tokens * self.network.width * self.sampling_bytes
        weights = self.network.count * self.sampling_bytes + self.vae.parameters * self.encoder_bytes
        decoding = (
            self.vae.decode_bytes(*self._tile("decode"), self._decoded_at_once(), self.encoder_bytes)
            - self.vae.parameters * self.encoder_bytes
        )
        return weights + max(_INFERENCE_UNITS * unit, decoding)

    def disk_bytes(self, stage: str, units: int) -> float:
        """What making ``units`` units adds to the store."""
        frames, height, width = self.clip
        if stage == "preprocess":
            return float(units * _THUMBNAIL)
        if stage == "latents":
            latents = ((frames - 1) // 4 + 1) * (height // 8) * (width // 8)
            return float(units * 2 * self.vae.channels * latents * self.encoder_bytes)
        if stage == "images":
            return float(
                units * self._image_copies * 2 * self.vae.channels * (height // 8) * (width // 8) * self.encoder_bytes
            )
        if stage == "text":
            return float(units * self.tokens_of_text * self.text.width * self.encoder_bytes)
        if stage == "train":
            return self._training_disk(units) if units else 0.0
        if stage == "export":
            return float(_FP32 * (self.network.trained_count if self._only_adapters else self.network.count))
        if stage == "sample":
            return float(units * 3 * self.pixels)
        return 0.0

    def _training_disk(self, steps: int) -> float:
        """Checkpoints that are kept, one more while it is written, and the final weights with their average."""
        trained, states = self.network.trained_count, optimizer_states(self.deepspeed)
        checkpoint = trained * (element_bytes(self.deepspeed) + _FP32 * (1 + states))
        interval = self.args.get("save_interval") or steps
        kept = min(self.args.get("keep_checkpoints") or 1, -(-steps // interval))
        average = (self.deepspeed.get("optimizer") or {}).get("type") == "FusedEmaAdam"
        return float((kept + 1) * checkpoint + trained * _FP32 * (1 + average))


def _ours(node: Mapping[str, Any], *names: str) -> None:
    """Raises Unmodelled unless the component is one of these."""
    try:
        found = canonical(node["target"])
    except ConfigError:
        found = None
    if found not in names:
        raise Unmodelled(node["target"])


def variants(args: Mapping[str, Any], prompts: int = 2) -> list[bool]:
    """Whether each variant that is sampled is guided (sampling/prompts.py makes them): tuned first, then controls."""
    guided = bool(args.get("sampling_guided", True))
    found = [guided]
    for name in dict.fromkeys(args.get("sampling_controls") or []):
        if name == "guided":
            found += [] if guided else [True]
        elif name != "shuffled" or prompts > 1:
            found.append(guided)
    return found
