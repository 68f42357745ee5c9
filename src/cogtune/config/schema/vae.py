"""Keys of `model.first_stage_config`: the 3D causal VAE (upstream: vae_modules)."""

from dataclasses import dataclass
from typing import Any

from cogtune.config.schema.common import FRAMES, LATENT_CHANNELS, PIXELS, REQUIRED, Range, key

Component = dict[str, Any]

_TILE = Range(8, PIXELS.most, "8 pixels are one of the latent")
_OVERLAP = Range(0, PIXELS.most, PIXELS.why)
_NOT_SPLIT = "the VAE is not split over ranks here"
_NOT_TRAINED = "the VAE is not trained here"


@dataclass(kw_only=True)
class Coder3DParams:
    """What encoder and decoder have in common."""

    ch: int = key(128, "channels of the first level", range=Range(1, 4096, "the published VAE has 128"))
    ch_mult: list[int] = key(
        [1, 2, 2, 4], "channels of each level, as multiples of ch", range=Range(1, 64, "the published VAE has 1 to 4")
    )
    num_res_blocks: int = key(
        3, "residual blocks of a level; the decoder has one more", range=Range(1, 64, "the published VAE has 3")
    )
    z_channels: int = key(16, "channels of the latent", range=LATENT_CHANNELS)
    in_channels: int = key(3, "channels of the video", range=LATENT_CHANNELS)
    out_ch: int = key(3, "channels of the decoded video", range=LATENT_CHANNELS)
    dropout: float = key(
        0.0,
        "dropout in the residual blocks; the VAE is frozen, so it never drops",
        unit="probability",
        range=Range(0, 0.99, "1 drops everything"),
    )
    double_z: bool = key(True, "the encoder gives mean and log-variance")
    num_groups: int = key(
        32,
        "groups of every GroupNorm; upstream's is 32, a small VAE needs fewer",
        range=Range(1, 4096, "there are at most as many groups as channels"),
    )
    temporal_compress_times: int = key(
        4, "pixel frames to one latent frame", refused="the published VAEs compress 4 frames to one"
    )
    resolution: int = key(256, "nominal size", unit="pixels", without_effect="upstream stores it and never reads it")
    attn_resolutions: list[int] = key(
        [], "sizes with attention", without_effect="the CogVideoX VAE has no attention; upstream ignores it too"
    )
    gather_norm: bool = key(False, "norms over all context-parallel ranks", without_effect=_NOT_SPLIT)
    pad_mode: str = key(
        "first",
        "what stands before the first frame",
        without_effect="it is the first frame, repeated; upstream ignores it too",
    )


@dataclass(kw_only=True)
class Encoder3DParams(Coder3DParams):
    """Pixels to moments. Upstream: ContextParallelEncoder3D."""


@dataclass(kw_only=True)
class Decoder3DParams(Coder3DParams):
    """Latents to pixels. Upstream: ContextParallelDecoder3D."""


@dataclass(kw_only=True)
class DiagonalGaussianParams:
    """The posterior. Upstream: DiagonalGaussianRegularizer."""

    sample: bool = key(True, "draw a fresh latent from the posterior each time; false takes its mean")


@dataclass(kw_only=True)
class VideoAutoencoderParams:
    """The whole VAE. Upstream: VideoAutoencoderInferenceWrapper."""

    encoder_config: Component = key(REQUIRED, "the encoder", node="encoder")
    decoder_config: Component = key(REQUIRED, "the decoder", node="decoder")
    regularizer_config: Component = key({"target": "DiagonalGaussian"}, "the posterior", node="regularizer")
    ckpt_path: str | None = key(
        None, "weights: upstream's 3d-vae.pt, a diffusers folder, or .safetensors of either", file=True
    )
    ignore_keys: list[str] = key([], "prefixes of checkpoint keys that are skipped")
    encode_batch_frames: int | None = key(
        None,
        "encode so many frames at a time (8 is diffusers' way, other moments); null: the whole clip",
        unit="frames",
        range=FRAMES,
    )
    encode_tile_size: list[int] | None = key(
        None,
        "encode in tiles of this size, with blended seams: less memory, slightly other moments; null: whole (ours)",
        items="height, width",
        unit="pixels",
        range=_TILE,
    )
    encode_tile_overlap: int = key(
        64, "of two neighbouring tiles, a multiple of 8 (ours)", unit="pixels", range=_OVERLAP
    )
    decode_tile_size: list[int] | None = key(
        None,
        "decode in tiles of this size, with blended seams: less memory, slightly other pixels; null: whole (ours)",
        items="height, width",
        unit="pixels",
        range=_TILE,
    )
    decode_tile_overlap: int = key(
        64, "of two neighbouring tiles, a multiple of 8 (ours)", unit="pixels", range=_OVERLAP
    )
    slicing: bool = key(False, "encode and decode one video of a batch at a time: less memory, the same numbers (ours)")
    loss_config: Component | None = key(
        None, "loss of VAE training", node="autoencoder loss", without_effect=_NOT_TRAINED
    )
    cp_size: int = key(0, "ranks that share one video", without_effect=_NOT_SPLIT)
    context_parallel_size: int = key(0, "ranks that share one video", without_effect=_NOT_SPLIT)
    image_video_weights: list[float] = key([1, 1], "weights of image and video loss", without_effect=_NOT_TRAINED)
    only_train_decoder: bool = key(False, "freeze the encoder", without_effect=_NOT_TRAINED)
    monitor: str | None = key(None, "metric that picks a checkpoint", without_effect=_NOT_TRAINED)
    lr_g_factor: float = key(1.0, "learning rate factor of the generator", without_effect=_NOT_TRAINED)
    input_key: str = key(
        "mp4", "which part of a batch is encoded", without_effect="the pipeline hands pixels over directly"
    )
