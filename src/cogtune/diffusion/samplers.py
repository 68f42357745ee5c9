"""Samplers of CogVideoX: DDIM and two DPM-Solver++(2M).

A sampler has n steps with signal scales a_0 = 0 < a_1 < … < a_(n-1) < a_n = 1. At step i it predicts the clean latent
x_0 at (a_i, t_i), then advances x to a_(i+1). Coefficients are float64 Python numbers; x keeps its dtype.
Source: upstream sgm.modules.diffusionmodules.sampling; DPM-Solver++ (arXiv:2211.01095).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cogtune.config.build import build
from cogtune.config.schema.diffusion import VideoDDIMSamplerParams
from cogtune.diffusion.guiders import Guider, IdentityGuider
from cogtune.errors import UserError

Denoise = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Noise = Callable[[], Tensor]


class VideoDDIMSampler:
    """Deterministic DDIM (arXiv:2010.02502), and the base class with the sampling loop.

    A plugin overrides `advance`, and sets `needs_noise` if that draws noise (docs/plugins.md).
    """

    needs_noise = False

    def __init__(self, params: VideoDDIMSamplerParams) -> None:
        if not params.num_steps or params.num_steps < 1:
            raise UserError(f"sampler_config.params.num_steps: {params.num_steps}; expected an integer of at least 1")
        self.params, self.steps = params, params.num_steps
        discretization = build(params.discretization_config)
        self.timesteps: list[int] = discretization.timesteps(self.steps)[::-1]  # 999 first
        self.alphas: list[float] = [*discretization(self.steps).tolist(), 1.0]
        self.guider: Guider = build(params.guider_config) if params.guider_config else IdentityGuider()

    @torch.no_grad()
    def __call__(
        self,
        denoise: Denoise,
        x_init_BTCHW: Tensor,
        cond: Tensor,
        uncond: Tensor | None = None,
        *,
        noise: Noise | None = None,
        on_step: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Clean latent (B, T, C, H, W), in x_init's dtype and on its device.

        denoise(x_BTCHW, a_B, index_B, context_BLD) -> x_0; a guided step calls it once with 2B rows, [uncond, cond].
        x_init: standard normal noise. With fixed_frames k, its first k frames are the clean prefix instead.
        cond, uncond: contexts (B, L, D); uncond is zeros for every published model.
        noise(): the next (B, T, C, H, W) of standard normal noise. Called, in this order, once per step for the prefix
        if `sdedit` is set, and once per step except the last by VPSDEDPMPP2MSampler.
        on_step(step, x_BTCHW): called after each step.
        Raises: UserError if noise or the unconditional context is needed but missing, or the prefix has all frames.
        """
        self._check(x_init_BTCHW, uncond, noise)
        x, previous_x0 = x_init_BTCHW, None
        prefix = x_init_BTCHW[:, : self.params.fixed_frames]
        for step in range(self.steps):
            x = self._with_prefix(x, prefix, self.alphas[step] if self.params.sdedit else 1.0, noise)
            x0 = self._predict(denoise, x, step, cond, uncond)
            x = self.advance(x, x0, previous_x0, step, noise)
            previous_x0 = x0
            if on_step is not None:
                on_step(step, x)
        return self._with_prefix(x, prefix, 1.0, None)

    def _check(self, x_BTCHW: Tensor, uncond: Tensor | None, noise: Noise | None) -> None:
        p, name = self.params, type(self).__name__
        if noise is None and (self.needs_noise or (p.fixed_frames and p.sdedit)):
            raise UserError(f"{name} draws noise at every step; pass noise=, a function that returns the next tensor")
        if p.fixed_frames >= x_BTCHW.shape[1]:
            raise UserError(
                f"fixed_frames: {p.fixed_frames} of {x_BTCHW.shape[1]} latent frames leave nothing to sample"
            )
        if uncond is None and self.guider.scale(0, self.timesteps[0], self.steps) is not None:
            raise UserError(
                f"{type(self.guider).__name__} needs the unconditional context; pass uncond, or IdentityGuider"
            )

    def _with_prefix(self, x: Tensor, prefix: Tensor, a: float, noise: Noise | None) -> Tensor:
        """x with its first frames replaced by the prefix, noised to signal scale a."""
        k = prefix.shape[1]
        if k == 0:
            return x
        if noise is not None and self.params.sdedit:
            prefix = a * prefix + math.sqrt(1 - a * a) * noise()[:, :k].to(prefix)
        return torch.cat([prefix, x[:, k:]], dim=1)

    def _predict(self, denoise: Denoise, x: Tensor, step: int, cond: Tensor, uncond: Tensor | None) -> Tensor:
        t, batch = self.timesteps[step], x.shape[0]
        scale = self.guider.scale(step, t, self.steps)
        copies = 1 if scale is None else 2
        a_B = torch.full((copies * batch,), self.alphas[step], dtype=torch.float64, device=x.device)
        index_B = torch.full((copies * batch,), t, dtype=torch.long, device=x.device)
        if scale is None or uncond is None:
            return denoise(x, a_B, index_B, cond).to(x.dtype)
        both = denoise(torch.cat([x, x]), a_B, index_B, torch.cat([uncond, cond])).to(x.dtype)
        x0_uncond, x0_cond = both.chunk(2)
        return torch.add(x0_uncond, x0_cond - x0_uncond, alpha=scale)

    def advance(self, x: Tensor, x0: Tensor, previous_x0: Tensor | None, step: int, noise: Noise | None) -> Tensor:
        """x at a_(step+1), from x at a_step and the predicted x_0; ``previous_x0`` is the prediction of the previous step.

        At the last step the result is x_0 for every sampler, because a = 1.
        """
        if step == self.steps - 1:
            return x0
        a, a_next = self.alphas[step : step + 2]
        ratio = _s(a_next) / _s(a)
        return ratio * x + (a_next - a * ratio) * x0


class VPODEDPMPP2MSampler(VideoDDIMSampler):
    """DPM-Solver++(2M): x' = (s'/s) x + a' (1 - e^-h) d, with d the second-order estimate of x_0."""

    def advance(self, x: Tensor, x0: Tensor, previous_x0: Tensor | None, step: int, noise: Noise | None) -> Tensor:
        if step == self.steps - 1:
            return x0
        a, a_next = self.alphas[step : step + 2]
        d = self._second_order(x0, previous_x0, step)
        return (_s(a_next) / _s(a)) * x + a_next * (1 - _exp_minus_h(a, a_next)) * d

    def _second_order(self, x0: Tensor, previous_x0: Tensor | None, step: int) -> Tensor:
        """(1 + 1/2r) x_0 - (1/2r) x_0_previous with r = h_previous / h.

        This is x_0 at the first step, and if the previous step had a = 0 (lambda = -inf, so 1/2r = 0).
        """
        if previous_x0 is None or self.alphas[step - 1] == 0.0:
            return x0
        before, current, after = (_half_log_snr(a) for a in self.alphas[step - 1 : step + 2])
        half_over_r = (after - current) / (2 * (current - before))
        return (1 + half_over_r) * x0 - half_over_r * previous_x0


class VPSDEDPMPP2MSampler(VPODEDPMPP2MSampler):
    """SDE-DPM-Solver++(2M), the sampler of every published CogVideoX configuration.

    x' = (s'/s) e^-h x + a' (1 - e^-2h) d + s' sqrt(1 - e^-2h) z. From a = 0, e^-h is 0: x' = a' x_0 + s' z.
    """

    needs_noise = True

    def advance(self, x: Tensor, x0: Tensor, previous_x0: Tensor | None, step: int, noise: Noise | None) -> Tensor:
        if step == self.steps - 1:
            return x0
        assert noise is not None  # checked by _check
        a, a_next = self.alphas[step : step + 2]
        s_next, e = _s(a_next), _exp_minus_h(a, a_next)
        d = self._second_order(x0, previous_x0, step)
        z = noise().to(x)
        return (s_next / _s(a) * e) * x + a_next * (1 - e * e) * d + s_next * math.sqrt(1 - e * e) * z


def _s(a: float) -> float:
    return math.sqrt(1 - a * a)


def _half_log_snr(a: float) -> float:
    """lambda = log(a / s), for 0 < a < 1."""
    return math.log(a / _s(a))


def _exp_minus_h(a: float, a_next: float) -> float:
    """e^-h with h = lambda' - lambda, written without logarithms so that a = 0 gives exactly 0."""
    return (a * _s(a_next)) / (_s(a) * a_next)
