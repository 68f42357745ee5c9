"""Noise schedules: the signal scale a of each timestep.

Everywhere in this package `a` = sqrt(alpha-bar), the share of the clean latent in x_t = a x_0 + s eps, and
`s` = sqrt(1 - a^2). Upstream calls the same numbers "sigma" or "alphas_cumprod_sqrt". Tables are float64.
"""

import numpy as np
import torch
from torch import Tensor

from cogtune.config.schema.diffusion import ZeroSNRDDPMDiscretizationParams
from cogtune.errors import UserError


class ZeroSNRDDPMDiscretization:
    """Square-root-linear betas, an optional shift of the log-SNR, and rescaling to exactly zero signal at the end.

    Source: upstream sgm.modules.diffusionmodules.discretizer; "Common Diffusion Noise Schedules and Sample Steps are
    Flawed" (arXiv:2305.08891) for the rescaling; CogVideoX (arXiv:2408.06072) for the shift.
    """

    def __init__(self, params: ZeroSNRDDPMDiscretizationParams) -> None:
        self.params = params
        start, shift = params.linear_start, params.shift_scale
        if params.keep_start and not params.post_shift:
            start = start / (shift + (1 - shift) * start)
        n = params.num_timesteps
        betas_N = torch.linspace(start**0.5, params.linear_end**0.5, n, dtype=torch.float64).square()
        alpha_bar_N = torch.cumprod(1 - betas_N, 0)
        if not params.post_shift:
            alpha_bar_N = _shift_snr(alpha_bar_N, shift)
        self._unscaled_a_N = alpha_bar_N.sqrt()

    def timesteps(self, n: int) -> list[int]:
        """The n timesteps of a table of n entries, ascending, with "trailing" spacing, so that the last is 999.

        Raises: UserError if n is not in 1..num_timesteps.
        """
        total = self.params.num_timesteps
        if not 1 <= n <= total:
            raise UserError(f"num_steps: {n}; expected 1 to {total}, the number of timesteps of the schedule")
        if n == total:
            return list(range(total))
        return [int(t) for t in np.linspace(total - 1, 0, n, endpoint=False)[::-1]]

    def __call__(self, n: int, flip: bool = False) -> Tensor:
        """n signal scales a, shape (n,), float64: from 0 (pure noise) up to almost 1, in the order of sampling.

        `flip=True` returns them by ascending timestep, so that table[t] is a_t for n = num_timesteps.
        As in upstream, the zero-SNR rescaling uses the selected subset, so the 50 values of a sampler are close but not
        equal to those of the 1000-entry training table (a_499: 0.492609 instead of 0.492300 at shift 1).
        """
        a_n = self._unscaled_a_N[self.timesteps(n)]
        first, last = a_n[0].clone(), a_n[-1].clone()
        gain = first / (first - last) if n > 1 else 1.0  # a single level is the last one, without signal
        a_n = (a_n - last) * gain
        if self.params.post_shift:
            a_n = _shift_snr(a_n.square(), self.params.shift_scale).sqrt()
        return a_n if flip else a_n.flip(0)


def _shift_snr(alpha_bar: Tensor, shift: float) -> Tensor:
    """Divides SNR = alpha_bar / (1 - alpha_bar) by `shift`."""
    return alpha_bar / (shift + (1 - shift) * alpha_bar)
