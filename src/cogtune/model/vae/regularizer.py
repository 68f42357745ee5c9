"""The posterior of the VAE: moments to a latent.

Shapes: B batch, C channels of the latent, T H W frames, height, width.
"""

import torch
from torch import Tensor

from cogtune.config.schema.vae import DiagonalGaussianParams


class DiagonalGaussian:
    """Diagonal Gaussian over latents (upstream vae_modules/regularizers.py, ``DiagonalGaussianRegularizer``).

    Moments hold mean and log-variance on the channel axis; the log-variance is clamped to [-30, 20] when used.
    """

    def __init__(self, params: DiagonalGaussianParams) -> None:
        self.samples = params.sample

    def sample(self, moments_B2CTHW: Tensor, noise_BCTHW: Tensor) -> Tensor:
        """mean + exp(logvar / 2) * noise, or the mean if the config says ``sample: false``."""
        mean, logvar = moments_B2CTHW.chunk(2, dim=1)
        if not self.samples:
            return mean
        return mean + torch.exp(0.5 * logvar.clamp(-30.0, 20.0)) * noise_BCTHW

    @staticmethod
    def mode(moments_B2CTHW: Tensor) -> Tensor:
        """The mean."""
        return moments_B2CTHW.chunk(2, dim=1)[0]

    @staticmethod
    def kl(moments_B2CTHW: Tensor) -> Tensor:
        """KL divergence to N(0, 1), summed over a sample's elements, (B,) (Kingma & Welling 2014, appendix B)."""
        mean, logvar = moments_B2CTHW.chunk(2, dim=1)
        logvar = logvar.clamp(-30.0, 20.0)
        return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).flatten(1).sum(1)
