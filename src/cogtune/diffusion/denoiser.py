"""Converts the network's v-prediction to the clean latent x_0."""

import torch
from torch import Tensor, nn

from cogtune.config.build import build
from cogtune.config.schema.diffusion import DiscreteDenoiserParams, EpsWeightingParams, VideoScalingParams
from cogtune.errors import UserError


class EpsWeighting:
    """w = sigma^-2. In every upstream config, but not used by the video loss, which is plain v-MSE."""

    def __init__(self, params: EpsWeightingParams | None = None) -> None:
        pass

    def __call__(self, sigma: Tensor) -> Tensor:
        return sigma**-2.0


class VideoScaling:
    """v-prediction: v = a eps - s x_0, hence x_0 = a x_t - s v ("Progressive Distillation", arXiv:2202.00512)."""

    def __init__(self, params: VideoScalingParams | None = None) -> None:
        pass

    def __call__(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(c_skip, c_out, c_in) of x_0 = c_out net(c_in x_t) + c_skip x_t, each of a's shape."""
        return a, -(1 - a**2).sqrt(), torch.ones_like(a)


class DiscreteDenoiser:
    """The network's prediction of x_0 at a discrete noise level (upstream sgm…denoiser.DiscreteDenoiser).

    The scaling uses the nearest level of the training table, while the sampler continues with its own value. The tables
    of 50 and of 1000 levels differ slightly, and published results depend on this.
    """

    def __init__(self, params: DiscreteDenoiserParams) -> None:
        if params.quantize_c_noise:
            raise UserError(
                "denoiser_config.params.quantize_c_noise: true would search the timestep among the noise levels, so that "
                "the network gets the same timestep at every step; expected false"
            )
        self.scaling = build(params.scaling_config)
        self.alphas_N = build(params.discretization_config)(params.num_idx, flip=True)

    def __call__(
        self,
        network: nn.Module,
        x_BTCHW: Tensor,
        a_B: Tensor,
        index_B: Tensor,
        context_BLD: Tensor,
        *,
        concat: Tensor | None = None,
        ofs: Tensor | float | None = None,
    ) -> Tensor:
        """Predicted clean latent (B, T, C, H, W), in x's dtype.

        `concat` (B, T, C', H, W): condition channels of an image-to-video model, appended to the noise channels. With
        guidance its batch may be half that of x = [unconditional, conditional]; both halves get the same image. Raises
        UserError if its shape does not fit.
        """
        alphas_N = self.alphas_N.to(x_BTCHW.device)
        nearest_B = (alphas_N[None, :] - a_B.to(alphas_N)[:, None]).abs().argmin(1)
        a_B1111 = alphas_N[nearest_B].view(-1, 1, 1, 1, 1)
        c_skip, c_out, c_in = (c.to(x_BTCHW.dtype) for c in self.scaling(a_B1111))
        input_BTCHW = with_condition(x_BTCHW * c_in, concat)
        v_BTCHW = network(input_BTCHW, index_B, context_BLD, ofs=ofs)
        return v_BTCHW.to(x_BTCHW.dtype) * c_out + x_BTCHW * c_skip


def with_condition(x_BTCHW: Tensor, concat_BTCHW: Tensor | None) -> Tensor:
    """x with the condition channels appended on axis 2; a smaller batch of conditions is repeated. Raises UserError if
    the shapes do not fit."""
    if concat_BTCHW is None:
        return x_BTCHW
    copies, rest = divmod(x_BTCHW.shape[0], concat_BTCHW.shape[0])
    same_grid = x_BTCHW.shape[1] == concat_BTCHW.shape[1] and x_BTCHW.shape[3:] == concat_BTCHW.shape[3:]
    if rest or not same_grid:
        raise UserError(
            f"image condition of shape {tuple(concat_BTCHW.shape)} does not fit the latent of shape "
            f"{tuple(x_BTCHW.shape)}; expected (B, T, C, H, W), the same T, H, W, and a batch that divides the latent's"
        )
    return torch.cat([x_BTCHW, concat_BTCHW.to(x_BTCHW).repeat(copies, 1, 1, 1, 1)], dim=2)
