"""The 3D causal VAE: encodes to moments, decodes latents, loads upstream's checkpoint.

Shapes: B batch, T H W frames, height, width, C channels; latent or pixels, as the name says.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cogtune.config.build import build
from cogtune.config.schema.vae import VideoAutoencoderParams
from cogtune.model.vae.decoder import Decoder3D
from cogtune.model.vae.encoder import Encoder3D, check_frames
from cogtune.model.vae.layers import Past
from cogtune.model.vae.regularizer import DiagonalGaussian
from cogtune.model.vae.tiling import Tiles, in_tiles
from cogtune.model.weights import load_weights

DECODE_CHUNK = 2
"""Latent frames per chunk; the first chunk also takes the remainder, so 13 are 3, 2, 2, 2, 2, 2, as in diffusers."""


class VideoAutoencoder(nn.Module):
    """3D VAE of CogVideoX (arXiv:2408.06072, section 2.1; upstream ``VideoAutoencoderInferenceWrapper``).

    Frozen: no parameter requires a gradient unless the caller changes that. ``params.ckpt_path`` is loaded if set.
    """

    checkpoint_prefix = "first_stage_model."

    def __init__(self, params: VideoAutoencoderParams) -> None:
        super().__init__()
        self.encoder: Encoder3D = build(params.encoder_config)  # pyright: ignore[reportAttributeAccessIssue]
        self.decoder: Decoder3D = build(params.decoder_config)  # pyright: ignore[reportAttributeAccessIssue]
        self.regularizer: DiagonalGaussian = build(params.regularizer_config)  # pyright: ignore[reportAttributeAccessIssue]
        self.batch_frames, self.slicing = params.encode_batch_frames, params.slicing
        self.stride = 2 ** (len(self.decoder.up) - 1)
        self.encode_tiles = self._tiles(params.encode_tile_size, params.encode_tile_overlap, "encode")
        self.decode_tiles = self._tiles(params.decode_tile_size, params.decode_tile_overlap, "decode")
        if params.ckpt_path:
            load_weights(self, params.ckpt_path, tuple(params.ignore_keys))
        self.requires_grad_(False).eval()

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """Pixels in [-1, 1], (B, 3, F, H, W), F = 4k + 1 → moments (B, 2 z, T, H/8, W/8), log-variance unclamped.

        All frames are encoded at once, as in upstream, so GroupNorm statistics span all frames.
        ``encode_batch_frames: 8`` encodes in batches with a causal cache instead, as diffusers does (less memory, but
        different moments from 17 frames on). ``encode_tile_size``: in overlapping tiles, see `tiling`. Raises ValueError
        for other F.
        """
        check_frames(video_BCTHW.shape[2])
        height, width = (size // self.stride for size in video_BCTHW.shape[3:])
        tiles = self.encode_tiles
        if tiles is None or tiles.cover(height, width):
            return self._one_by_one(self._encode, video_BCTHW)
        return self._one_by_one(lambda part: in_tiles(self._encode, part, tiles, self.stride, 1), video_BCTHW)

    def decode(self, latent_BCTHW: Tensor) -> Tensor:
        """Unscaled latents (B, z, T, h, w) → pixels (B, 3, 4 (T - 1) + 1, 8 h, 8 w), roughly in [-1, 1], not clamped.

        Decodes in chunks with a causal cache, so memory depends on the chunk. Equals diffusers for odd T; for even T
        diffusers also expands the first latent and returns 3 frames more. ``decode_tile_size``: in overlapping tiles, see
        `tiling`.
        """
        tiles = self.decode_tiles
        if tiles is None or tiles.cover(*latent_BCTHW.shape[3:]):
            return self._one_by_one(self._decode, latent_BCTHW)
        return self._one_by_one(lambda part: in_tiles(self._decode, part, tiles, 1, self.stride), latent_BCTHW)

    def decode_whole(self, latent_BCTHW: Tensor) -> Tensor:
        """Decode all frames at once, for training the VAE: statistics of short chunks would be noisy."""
        return self.decoder(latent_BCTHW)

    def _encode(self, video_BCTHW: Tensor) -> Tensor:
        if not self.batch_frames or video_BCTHW.shape[2] <= self.batch_frames:
            return self.encoder(video_BCTHW)
        return _in_chunks(self.encoder, video_BCTHW, self.batch_frames)

    def _decode(self, latent_BCTHW: Tensor) -> Tensor:
        return _in_chunks(self.decoder, latent_BCTHW, DECODE_CHUNK)

    def _one_by_one(self, code: Callable[[Tensor], Tensor], x_BCTHW: Tensor) -> Tensor:
        """With ``slicing``, one sample of the batch at a time."""
        return torch.cat([code(sample) for sample in x_BCTHW.split(1)]) if self.slicing else code(x_BCTHW)

    def _tiles(self, size: list[int] | None, overlap: int, key: str) -> Tiles | None:
        return None if size is None else Tiles.of_pixels(size, overlap, self.stride, key)


def _in_chunks(coder: Encoder3D | Decoder3D, x_BCTHW: Tensor, chunk: int) -> Tensor:
    past, parts = Past(), []
    for part_BCTHW in x_BCTHW.split(split_frames(x_BCTHW.shape[2], chunk), dim=2):
        parts.append(coder(part_BCTHW, past))
        past.first = False
    return torch.cat(parts, dim=2)


def split_frames(frames: int, chunk: int) -> list[int]:
    """Sizes of the chunks of ``frames``: all are ``chunk`` except the first, which also takes the remainder."""
    count = max(frames // chunk, 1)
    return [frames - chunk * (count - 1)] + [chunk] * (count - 1)
