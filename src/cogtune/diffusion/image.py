"""The image condition of an image-to-video network, in training and in sampling."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NOISE_LOG_MEAN, NOISE_LOG_STD = -3.0, 0.5
"""Noise added to the first frame in training: sigma is log-normal, median 0.05 for pixels in [-1, 1] (upstream)."""


def noised(image: Tensor, sigma_normal: float, noise: Tensor) -> Tensor:
    """image + sigma noise in pixels of [-1, 1], sigma = exp(-3 + 0.5 sigma_normal) (upstream diffusion_video.shared_step).

    ``noise``: standard normal, of the image's shape. Sampling adds no noise.
    """
    return image + math.exp(NOISE_LOG_MEAN + NOISE_LOG_STD * sigma_normal) * noise


@dataclass(frozen=True)
class ImageCondition:
    """Computes the condition channels from the latent of an image.

    ``scale``: factor of the VAE's latent (`model.image_scale_factor`). ``everywhere``: repeat the image for every latent
    frame; otherwise it is only in the first one, and the others are zero.
    """

    scale: float
    everywhere: bool = False

    def __call__(self, latent_BCHW: Tensor, frames: int, kept_B: Tensor | None = None) -> Tensor:
        """(B, frames, C, H, W) from unscaled latents; zeros for samples whose ``kept_B`` is false.

        ``frames``: number of latent frames including the padding to the temporal patch; the image is in the first of
        them, as in diffusers.
        """
        first_B1CHW = (latent_BCHW * self.scale)[:, None]
        if kept_B is not None:
            first_B1CHW = torch.where(kept_B.view(-1, 1, 1, 1, 1), first_B1CHW, 0.0)
        if self.everywhere:
            return first_B1CHW.repeat(1, frames, 1, 1, 1)
        rest = first_B1CHW.new_zeros(first_B1CHW.shape[0], frames - 1, *first_B1CHW.shape[2:])
        return torch.cat([first_B1CHW, rest], dim=1)


def image_condition(takes_image: bool, scale: float | None, everywhere: bool) -> ImageCondition | None:
    """The condition of a model with these keys; None for a text-to-video model. ``scale`` must be set if it
    ``takes_image``."""
    if not takes_image:
        return None
    assert scale is not None, "model.image_scale_factor: the config check sets it"
    return ImageCondition(scale, everywhere)
