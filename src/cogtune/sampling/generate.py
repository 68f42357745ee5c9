"""From captions to videos: noise, sampler, decoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from cogtune.config.build import build
from cogtune.config.geometry import latent_frames
from cogtune.config.schema.vae import Decoder3DParams
from cogtune.data.clips import to_unit_range
from cogtune.diffusion.image import ImageCondition
from cogtune.diffusion.noise import generator

_DECODED_POSITIONS = 1200
"""Latent positions (T x h x w) decoded in one batch: 4 clips of 9 x 64 x 96 pixels."""

Denoise = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]


class LatentDecoder(Protocol):
    """The VAE's decoder, as sampling uses it."""

    def decode(self, latent_BCTHW: Tensor) -> Tensor: ...


class ImageEncoder(Protocol):
    """The VAE's encoder, as sampling uses it for images."""

    regularizer: Any

    def encode(self, video_BCTHW: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Generator:
    """Generates videos with one set of weights.

    ``denoise(x_BTCHW, a_B, index_B, context_BLD, concat_BTCHW)`` is the denoiser with its network. ``shape``: (T, C, H, W)
    of a latent that the decoder takes. ``frame_multiple``: the network's temporal patch size. If T is not a multiple of
    it, additional latent frames are sampled in front and dropped, as in training and in diffusers' 1.5 pipeline.
    ``scale_factor``: latents of the network are those of the VAE times this.
    """

    denoise: Denoise
    vae: LatentDecoder
    shape: tuple[int, int, int, int]
    scale_factor: float
    seed: int
    device: torch.device
    frame_multiple: int = 1
    image: ImageCondition | None = None

    @torch.no_grad()
    def videos(
        self,
        ids: Sequence[str],
        context_BLD: Tensor,
        sampler: Any,
        images_BCHW: Tensor | None = None,
        on_step: Callable[[int, Tensor], None] | None = None,
        negative_BLD: Tensor | None = None,
    ) -> list[Tensor]:
        """One uint8 (F, 3, H, W) video on the CPU per id. ``images``: unscaled latents from `encode_image`, the input
        images of an image-to-video model; with guidance both halves of the batch get them. ``negative``: the context that
        guidance leads away from; None: zeros, as for every published model.

        The initial noise and that of every step depend only on the seed and the id: not on the rest of the batch, on
        earlier samples, or on the weights. So all variants of one clip start from the same noise.
        """
        frames, *inner = self.shape
        padding = -frames % self.frame_multiple
        shape = (frames + padding, *inner)
        initial = [torch.randn(shape, generator=generator(self.seed, "sample", name, "initial")) for name in ids]
        noise_streams = [generator(self.seed, "sample", name, "steps") for name in ids]
        context_BLD = context_BLD.to(self.device)
        concat = None
        if self.image is not None and images_BCHW is not None:
            concat = self.image(images_BCHW.to(self.device), shape[0])
        x0_BTCHW = sampler(
            lambda x, a, index, context: self.denoise(x, a, index, context, concat),
            torch.stack(initial).to(self.device),
            context_BLD,
            torch.zeros_like(context_BLD) if negative_BLD is None else negative_BLD.to(context_BLD),
            noise=lambda: torch.stack([torch.randn(shape, generator=stream) for stream in noise_streams]),
            on_step=on_step,
        )
        latent_BCTHW = (x0_BTCHW[:, padding:] / self.scale_factor).transpose(1, 2)
        return decode(self.vae, latent_BCTHW)


@torch.no_grad()
def encode_image(vae: ImageEncoder, pixels_CHW: Tensor, seed: int, name: str) -> Tensor:
    """Unscaled latent (C, h, w) of a uint8 (3, H, W) image. No noise is added to the pixels. The posterior is sampled as
    in training, with a draw that depends only on the seed and the sample's id."""
    moments_BCHW = vae.encode(to_unit_range(pixels_CHW)[None, :, None])[:, :, 0].float().cpu()
    channels, *grid = moments_BCHW.shape[1:]
    noise = torch.randn((1, channels // 2, *grid), generator=generator(seed, "sample", name, "image"))
    return vae.regularizer.sample(moments_BCHW, noise)[0]


@torch.no_grad()
def decode(vae: LatentDecoder, latent_BCTHW: Tensor) -> list[Tensor]:
    """The uint8 (F, 3, H, W) video of each unscaled latent, on the CPU.

    Decoding needs more memory than any other step, so videos of usual sizes are decoded one by one. Small ones share a
    batch: PyTorch's CPU convolution is 2 to 4 times slower for a single small sample.
    """
    size = max(1, _DECODED_POSITIONS // latent_BCTHW[0, 0].numel())
    return [to_uint8(video_CFHW) for part in latent_BCTHW.split(size) for video_CFHW in vae.decode(part)]


def to_uint8(video_CFHW: Tensor) -> Tensor:
    """(3, F, H, W) in [-1, 1] to uint8 (F, 3, H, W) on the CPU, clamped and rounded (upstream truncates)."""
    return ((video_CFHW.float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8).transpose(0, 1).contiguous().cpu()


def samplers(sampler_config: dict[str, Any], steps: int | None) -> dict[bool, Any]:
    """The configured sampler with its guider (True) and without guidance (False); ``steps`` overrides num_steps."""
    params = dict(sampler_config.get("params") or {})
    if steps:
        params["num_steps"] = steps
    node = {"target": sampler_config["target"], "params": params}
    # A plugin's sampler may not have this param.
    unguided = params | ({"guider_config": None} if "guider_config" in params else {})
    return {True: build(node), False: build(node | {"params": unguided})}


def latent_shape(
    decoder: Decoder3DParams, frames: int, video_size: Sequence[int], time_rate: int
) -> tuple[int, int, int, int]:
    """(T, C, H, W) of the latent that decodes to ``frames`` frames of ``video_size`` (height, width).

    ``decoder``: params of the VAE's decoder, which doubles the size at every level but one.
    """
    scale = 2 ** (len(decoder.ch_mult) - 1)
    height, width = video_size
    return latent_frames(frames, time_rate), decoder.z_channels, height // scale, width // scale
