"""Keys of ``model.first_stage_config``: the 3D causal VAE."""

from dataclasses import dataclass
from typing import Any

from cogtune.config.schema.common import key

_ATTENTION = "the encoder and decoder of CogVideoX have no attention blocks; upstream ignores it too"


@dataclass
class Coder3DParams:
    """What encoder and decoder have in common (sat_reference: vae_modules/cp_enc_dec.py)."""

    ch: int = key(128, "channels of the first level")
    ch_mult: list[int] = key([1, 2, 2, 4], "channels of each level, as multiples of ch")
    num_res_blocks: int = key(3, "residual blocks of a level; the decoder has one more")
    z_channels: int = key(16, "channels of the latent")
    in_channels: int = key(3, "channels of the video")
    out_ch: int = key(3, "channels of the video that comes out")
    dropout: float = key(0.0, "dropout in the residual blocks", unit="probability")
    double_z: bool = key(True, "the encoder gives mean and log-variance")
    num_groups: int = key(32, "groups of every GroupNorm; upstream's is 32, small VAEs need fewer")
    resolution: int = key(256, "nominal size", without_effect="upstream stores it and never reads it")
    attn_resolutions: list[int] = key([], "sizes with attention", without_effect=_ATTENTION)
    gather_norm: bool = key(False, "norms over all ranks", without_effect="the VAE is not split over ranks here")
    pad_mode: str = key("first", "what stands before the first frame", without_effect="always the first frame, as upstream")


@dataclass
class Encoder3DParams(Coder3DParams):
    """``ContextParallelEncoder3D``."""


@dataclass
class Decoder3DParams(Coder3DParams):
    """``ContextParallelDecoder3D``."""


@dataclass
class DiagonalGaussianParams:
    """``DiagonalGaussianRegularizer``."""

    sample: bool = key(True, "draw from the posterior (false: take its mean)")


@dataclass
class VideoAutoencoderParams:
    """``VideoAutoencoderInferenceWrapper``."""

    encoder_config: dict[str, Any] = key({}, "the encoder", node=True)
    decoder_config: dict[str, Any] = key({}, "the decoder", node=True)
    regularizer_config: dict[str, Any] = key({"target": "DiagonalGaussian"}, "the posterior", node=True)
    loss_config: dict[str, Any] | None = key(None, "VAE loss", node=True, without_effect="the VAE is not trained here")
    ckpt_path: str | None = key(None, "weights: 3d-vae.pt or .safetensors with its names", file=True)
    ignore_keys: list[str] = key([], "prefixes of checkpoint keys to skip")
    encode_batch_frames: int | None = key(None, "encode in batches of so many frames (8: diffusers' way); null: whole clip", unit="frames")
    cp_size: int = key(0, "context parallel size", without_effect="the VAE is not split over ranks here")
