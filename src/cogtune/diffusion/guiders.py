"""Classifier-free guidance ("Classifier-Free Diffusion Guidance", arXiv:2207.12598), on the predicted clean latent."""

import math
from typing import Protocol

from cogtune.config.schema.diffusion import DynamicCFGParams, IdentityGuiderParams, VanillaCFGParams
from cogtune.errors import UserError


class Guider(Protocol):
    """Returns the guidance scale g of x_0 = x_u + g (x_c - x_u) for each step; None for no guidance, without the
    unconditional forward pass."""

    def scale(self, step: int, timestep: int, sampler_steps: int) -> float | None:
        """g at `step` (0 is pure noise) of `sampler_steps`, at `timestep` (999 is pure noise)."""
        ...


class IdentityGuider:
    """No guidance: one forward pass per step, with the caption."""

    def __init__(self, params: IdentityGuiderParams | None = None) -> None:
        pass

    def scale(self, step: int, timestep: int, sampler_steps: int) -> None:
        return None


class VanillaCFG:
    """The same guidance scale at every step."""

    def __init__(self, params: VanillaCFGParams) -> None:
        self.params = params

    def scale(self, step: int, timestep: int, sampler_steps: int) -> float:
        return float(self.params.scale)


class DynamicCFG:
    """g = 1 + scale (1 - cos(pi (k / num_steps)^exp)) / 2, between 1 and 1 + scale.

    `schedule: timestep` (upstream, diffusers, and all published results): k = sampler steps - timestep, which is far
    outside 0..num_steps, so g varies irregularly. `schedule: step_index`: k = step, the smooth ramp that was intended.
    """

    def __init__(self, params: DynamicCFGParams) -> None:
        if params.schedule == "timestep" and params.exp != int(params.exp):
            raise UserError(
                f"DynamicCFG exp: {params.exp}; must be an integer with schedule timestep, because k is negative"
            )
        self.params = params

    def scale(self, step: int, timestep: int, sampler_steps: int) -> float:
        p = self.params
        k = step if p.schedule == "step_index" else sampler_steps - timestep
        return 1 + p.scale * (1 - math.cos(math.pi * (k / p.num_steps) ** p.exp)) / 2
