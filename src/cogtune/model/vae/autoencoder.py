"""The 3D causal VAE as one object: encode to moments, decode from latents, load upstream's checkpoint."""

import torch
from torch import Tensor, nn

from cogtune.config.registry import build
from cogtune.config.schema.vae import VideoAutoencoderParams
from cogtune.model.vae.decoder import Decoder3D
from cogtune.model.vae.encoder import Encoder3D, latent_frames
from cogtune.model.vae.layers import Past
from cogtune.model.vae.regularizer import DiagonalGaussian
from cogtune.model.weights import load_weights

DECODE_CHUNK = 2
"""Latent frames decoded at a time; the first chunk takes what is left over, so 13 are 3, 2, 2, 2, 2, 2 (diffusers' way)."""


class VideoAutoencoder(nn.Module):
    """3D VAE of CogVideoX (arXiv:2408.06072, section 2.1; upstream ``VideoAutoencoderInferenceWrapper``).

    Frozen here: no parameter asks for a gradient unless the caller turns that on. ``params.ckpt_path`` is loaded if set.
    """

    checkpoint_prefix = "first_stage_model."

    def __init__(self, params: VideoAutoencoderParams) -> None:
        super().__init__()
        self.encoder: Encoder3D = build(params.encoder_config)  # pyright: ignore[reportAttributeAccessIssue]
        self.decoder: Decoder3D = build(params.decoder_config)  # pyright: ignore[reportAttributeAccessIssue]
        self.regularizer: DiagonalGaussian = build(params.regularizer_config)  # pyright: ignore[reportAttributeAccessIssue]
        self.batch_frames = params.encode_batch_frames
        if params.ckpt_path:
            load_weights(self, params.ckpt_path, tuple(params.ignore_keys))
        self.requires_grad_(False).eval()

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """Pixels in [-1, 1], (B, 3, F, H, W), F = 4k + 1 → moments (B, 2 z, T, H/8, W/8), log-variance unclamped.

        The whole clip goes in at once, as upstream does it: GroupNorm statistics span all frames.
        ``encode_batch_frames: 8`` encodes in batches with a causal cache instead, as diffusers does (other moments from
        17 frames on, less memory). Raises ValueError for other F.
        """
        frames = video_BCTHW.shape[2]
        latent_frames(frames)
        if not self.batch_frames or frames <= self.batch_frames:
            return self.encoder(video_BCTHW)
        return _in_chunks(self.encoder, video_BCTHW, self.batch_frames)

    def decode(self, latent_BCTHW: Tensor) -> Tensor:
        """Unscaled latents (B, z, T, h, w) → pixels (B, 3, 4 (T - 1) + 1, 8 h, 8 w), roughly in [-1, 1], not clamped.

        Chunk by chunk with a causal cache, so memory grows with the chunk. Equals diffusers for odd T; for even T diffusers
        doubles the first latent as well and gives 3 frames more.
        """
        return _in_chunks(self.decoder, latent_BCTHW, DECODE_CHUNK)

    def decode_whole(self, latent_BCTHW: Tensor) -> Tensor:
        """Decode in one call: for training the VAE, where statistics of short chunks would be noise."""
        return self.decoder(latent_BCTHW)


def _in_chunks(coder: Encoder3D | Decoder3D, x_BCTHW: Tensor, chunk: int) -> Tensor:
    past, parts = Past(), []
    for part_BCTHW in x_BCTHW.split(split_frames(x_BCTHW.shape[2], chunk), dim=2):
        parts.append(coder(part_BCTHW, past))
        past.first = False
    return torch.cat(parts, dim=2)


def split_frames(frames: int, chunk: int) -> list[int]:
    """Sizes of the chunks of ``frames``: all ``chunk`` long but the first, which takes the remainder as well."""
    count = max(frames // chunk, 1)
    return [frames - chunk * (count - 1)] + [chunk] * (count - 1)
