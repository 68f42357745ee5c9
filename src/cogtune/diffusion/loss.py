"""The training loss."""

import torch
from torch import Tensor, nn

from cogtune.config.build import build
from cogtune.config.schema.diffusion import VideoDiffusionLossParams
from cogtune.diffusion.denoiser import with_condition
from cogtune.diffusion.sampling_index import DiscreteSampling
from cogtune.errors import UserError


class VideoDiffusionLoss:
    """v-prediction loss, in fp32.

    Upstream weights the error of x_0 by 1/(1 - a^2), which equals the unweighted error of v. At t = 0 that weight is 1176
    (shift 1), which amplifies rounding errors of x_0, so we compute the error of v directly.
    """

    def __init__(self, params: VideoDiffusionLossParams) -> None:
        self.params = params
        self.sampling: DiscreteSampling = build(params.sigma_sampler_config)

    def __call__(
        self,
        network: nn.Module,
        x0_BTCHW: Tensor,
        context_BLD: Tensor,
        index_B: Tensor,
        noise_BTCHW: Tensor,
        *,
        ofs: Tensor | float | None = None,
        concat: Tensor | None = None,
        offset_B: Tensor | None = None,
    ) -> Tensor:
        """Loss of each sample, (B,) fp32.

        x0: clean latent, already scaled; index: timesteps, from `self.sampling.index`; noise: standard normal, x0's
        shape; concat: image condition (B, T, C', H, W); offset: one standard normal per sample, needed when
        offset_noise_level is not 0.
        """
        x0, noise = x0_BTCHW.float(), self._offset(noise_BTCHW.float(), offset_B)
        a_B = self.sampling.alpha(index_B)
        s_B = (1 - a_B**2).sqrt()
        a, s = (scale_B.to(x0).view(-1, 1, 1, 1, 1) for scale_B in (a_B, s_B))
        x_t = torch.addcmul(x0 * a, noise, s)
        v = torch.addcmul(noise * a, x0, s, value=-1)
        v_hat = network(with_condition(x_t, concat), index_B, context_BLD, ofs=ofs).float()
        if self.params.type == "l1":
            return (v_hat - v).abs().flatten(1).mean(1) / s_B.float()
        mse_B = (v_hat - v).square().flatten(1).mean(1)
        return mse_B if self.params.min_snr_value is None else mse_B * self._min_snr_weight(s_B)

    def _offset(self, noise_BTCHW: Tensor, offset_B: Tensor | None) -> Tensor:
        level = self.params.offset_noise_level
        if not level:
            return noise_BTCHW
        if offset_B is None:
            raise UserError(f"offset_noise_level is {level}: the loss needs offset_B, one normal number per sample")
        return noise_BTCHW + level * offset_B.to(noise_BTCHW).view(-1, 1, 1, 1, 1)

    def _min_snr_weight(self, s_B: Tensor) -> Tensor:
        """min(1/s^2, value) is the weight of the x_0 error ("Min-SNR", arXiv:2303.09556); times s^2, that of v."""
        return (1 / s_B**2).clamp(max=self.params.min_snr_value).mul(s_B**2).float()
