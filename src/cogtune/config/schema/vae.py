"""Keys of `model.first_stage_config`: the 3D causal VAE (upstream: vae_modules)."""

from dataclasses import dataclass
from typing import Any

from cogtune.config.schema.common import FRAMES, LATENT_CHANNELS, PIXELS, REQUIRED, Range, key

Component = dict[str, Any]

_TILE = Range(8, PIXELS.maximum, "8 pixels are one latent pixel")
_OVERLAP = Range(0, PIXELS.maximum, PIXELS.why)
_NOT_SPLIT = "the VAE is not split over ranks"
_NOT_TRAINED = "the VAE is not trained"


@dataclass(kw_only=True)
class Coder3DParams:
    """Keys of both encoder and decoder."""

    ch: int = key(128, "channels of the first level", range=Range(1, 4096, "the published VAE has 128"))
    ch_mult: list[int] = key(
        [1, 2, 2, 4], "channels of each level, as multiples of ch", range=Range(1, 64, "the published VAE has 1 to 4")
    )
    num_res_blocks: int = key(
        3, "residual blocks per level; the decoder has one more", range=Range(1, 64, "the published VAE has 3")
    )
    z_channels: int = key(16, "channels of the latent", range=LATENT_CHANNELS)
    in_channels: int = key(3, "channels of the video", range=LATENT_CHANNELS)
    out_ch: int = key(3, "channels of the decoded video", range=LATENT_CHANNELS)
    dropout: float = key(
        0.0,
        "dropout in the residual blocks; not applied, as the VAE is frozen",
        unit="probability",
        range=Range(0, 0.99, "1 drops everything"),
    )
    double_z: bool = key(True, "the encoder outputs mean and log-variance")
    num_groups: int = key(
        32,
        "groups of every GroupNorm; 32 upstream, fewer for a small VAE",
        range=Range(1, 4096, "there cannot be more groups than channels"),
    )
    temporal_compress_times: int = key(
        4, "pixel frames per latent frame", refused="the published VAEs compress 4 frames into one"
    )
    resolution: int = key(256, "nominal size", unit="pixels", without_effect="upstream ignores it too")
    attn_resolutions: list[int] = key(
        [], "resolutions with attention", without_effect="the VAE has no attention; upstream ignores it too"
    )
    gather_norm: bool = key(False, "compute norms over all context-parallel ranks", without_effect=_NOT_SPLIT)
    pad_mode: str = key(
        "first",
        "padding before the first frame",
        without_effect="the first frame is repeated; upstream ignores it too",
    )


@dataclass(kw_only=True)
class Encoder3DParams(Coder3DParams):
    """Encode pixels to moments. Upstream: ContextParallelEncoder3D."""


@dataclass(kw_only=True)
class Decoder3DParams(Coder3DParams):
    """Decode latents to pixels. Upstream: ContextParallelDecoder3D."""


@dataclass(kw_only=True)
class DiagonalGaussianParams:
    """The posterior. Upstream: DiagonalGaussianRegularizer."""

    sample: bool = key(True, "draw a new latent from the posterior each time; false: use its mean")


@dataclass(kw_only=True)
class VideoAutoencoderParams:
    """The VAE. Upstream: VideoAutoencoderInferenceWrapper."""

    encoder_config: Component = key(REQUIRED, "the encoder", node="encoder")
    decoder_config: Component = key(REQUIRED, "the decoder", node="decoder")
    regularizer_config: Component = key({"target": "DiagonalGaussian"}, "the posterior", node="regularizer")
    ckpt_path: str | None = key(
        None, "weights: upstream's 3d-vae.pt, a diffusers folder, or a .safetensors file of either", file=True
    )
    ignore_keys: list[str] = key([], "prefixes of checkpoint keys to skip")
    encode_batch_frames: int | None = key(
        None,
        "frames to encode at a time (8 as in diffusers; changes the moments); null: all",
        unit="frames",
        range=FRAMES,
    )
    encode_tile_size: list[int] | None = key(
        None,
        "encode in tiles of this size with blended seams: less memory, slightly different moments; null: no tiles (ours)",
        items="height, width",
        unit="pixels",
        range=_TILE,
    )
    encode_tile_overlap: int = key(
        64, "overlap of neighbouring tiles, a multiple of 8 (ours)", unit="pixels", range=_OVERLAP
    )
    decode_tile_size: list[int] | None = key(
        None,
        "decode in tiles of this size with blended seams: less memory, slightly different pixels; null: no tiles (ours)",
        items="height, width",
        unit="pixels",
        range=_TILE,
    )
    decode_tile_overlap: int = key(
        64, "overlap of neighbouring tiles, a multiple of 8 (ours)", unit="pixels", range=_OVERLAP
    )
    slicing: bool = key(False, "encode and decode one video at a time: less memory, same results (ours)")
    loss_config: Component | None = key(
        None, "loss of VAE training", node="autoencoder loss", without_effect=_NOT_TRAINED
    )
    cp_size: int = key(0, "context-parallel ranks per video", without_effect=_NOT_SPLIT)
    context_parallel_size: int = key(0, "context-parallel ranks per video", without_effect=_NOT_SPLIT)
    image_video_weights: list[float] = key([1, 1], "weights of image and video loss", without_effect=_NOT_TRAINED)
    only_train_decoder: bool = key(False, "freeze the encoder", without_effect=_NOT_TRAINED)
    monitor: str | None = key(None, "metric that selects a checkpoint", without_effect=_NOT_TRAINED)
    lr_g_factor: float = key(1.0, "learning rate factor of the generator", without_effect=_NOT_TRAINED)
    input_key: str = key("mp4", "batch entry that is encoded", without_effect="the VAE gets pixels directly")
