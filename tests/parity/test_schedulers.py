"""Our samplers, which are SAT's, against diffusers' CogVideoXDPMScheduler and CogVideoXDDIMScheduler.

They walk alike, over slightly different levels: diffusers makes the signal vanish at the end of all 1000 levels and then
picks 50, SAT picks 50 and then makes the signal of the last vanish. With diffusers' levels our samplers give diffusers'
trajectory; with our own they end a fraction of a per cent elsewhere. The numbers stand in the tests.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cogtune.config.build import build
from tests.unit.diffusion.nodes import discretization, sampler

schedulers = pytest.importorskip("diffusers.schedulers")
SHAPE = (1, 3, 4, 2, 3)
PUBLISHED: dict[str, Any] = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
    "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
}  # fmt: skip
SHIFTS = (1.0, 3.0)


def theirs(kind: str, shift: float, n: int) -> Any:
    made = getattr(schedulers, kind)(snr_shift_scale=shift, **PUBLISHED)
    made.set_timesteps(n)
    return made


def levels(kind: str, shift: float, n: int) -> np.ndarray:
    """diffusers' signal scales at its timesteps, in the order of sampling, and the 1 at the end."""
    made = theirs(kind, shift, n)
    return np.append(made.alphas_cumprod[made.timesteps].sqrt().numpy(), 1.0)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("kind", ["CogVideoXDPMScheduler", "CogVideoXDDIMScheduler"])
def test_the_training_table_is_the_same(kind: str, shift: float) -> None:
    ours = build(discretization(shift_scale=shift))(1000, flip=True).numpy()
    found = theirs(kind, shift, 50).alphas_cumprod.sqrt().numpy()
    np.testing.assert_allclose(found, ours, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("n", "shift", "largest"), [(50, 1.0, 6.3e-4), (50, 3.0, 1.03e-3), (10, 1.0, 3.9e-3), (100, 1.0, 2.9e-4)]
)
def test_the_levels_of_a_sampler_differ_by_so_much(n: int, shift: float, largest: float) -> None:
    """At t = 19, 50 steps, shift 1: 0.991082 in SAT, 0.990460 in diffusers; no difference where the signal is 0."""
    ours = build(discretization(shift_scale=shift))(n).numpy()
    found = levels("CogVideoXDPMScheduler", shift, n)[:-1]
    assert ours[0] == found[0] == 0
    assert (ours[1:] > found[1:]).all()
    assert (ours - found).max() == pytest.approx(largest, rel=0.05)


@pytest.mark.parametrize("n", [6, 50, 1000])
def test_timesteps(n: int) -> None:
    """The same where n divides 1000. Elsewhere diffusers rounds where SAT cuts off, and its step (1000 // n) leaves its
    own timesteps: from 999 with 6 steps it goes to 833, and asks the network at 832."""
    ours = build(sampler("VideoDDIMSampler", n)).timesteps
    made = theirs("CogVideoXDPMScheduler", 1.0, n)
    if 1000 % n == 0:
        assert made.timesteps.tolist() == ours
        return
    assert (ours, made.timesteps.tolist()) == ([999, 832, 666, 499, 333, 166], [999, 832, 666, 499, 332, 166])
    assert 999 - 1000 // n == 833


def velocity(x: Tensor, t: int) -> Tensor:
    """Some smooth network."""
    return torch.tanh(0.7 * x + t / 500) - 0.3 * x


def walk_theirs(kind: str, shift: float, n: int, x: Tensor) -> Tensor:
    made, previous, draws = theirs(kind, shift, n), None, torch.Generator().manual_seed(3)
    for i, t in enumerate(made.timesteps):
        v = velocity(x, int(t))
        if kind == "CogVideoXDDIMScheduler":
            x = made.step(v, t, x, return_dict=False)[0]
        else:
            back = made.timesteps[i - 1] if i else None
            x, previous = made.step(v, previous, t, back, x, generator=draws, return_dict=False)
    return x


def walk_ours(kind: str, n: int, alphas: list[float], x: Tensor) -> Tensor:
    """The sampler over given levels; the network's v becomes x_0 with the same level."""
    made = build(sampler(kind, n))
    made.alphas = alphas

    def denoise(x: Tensor, a: Tensor, index: Tensor, _: Tensor) -> Tensor:
        level = float(a[0])
        return level * x - (1 - level**2) ** 0.5 * velocity(x, int(index[0]))

    return made(denoise, x, x, noise=second_draws(3))


def second_draws(seed: int) -> Callable[[], Tensor]:
    """diffusers and SAT draw twice a step from the second step on, and use the second draw only."""
    draws, calls = torch.Generator().manual_seed(seed), [0]

    def noise() -> Tensor:
        calls[0] += 1
        if calls[0] > 1:
            torch.randn(SHAPE, generator=draws, dtype=torch.float64)
        return torch.randn(SHAPE, generator=draws, dtype=torch.float64)

    return noise


PAIRS = [("CogVideoXDPMScheduler", "VPSDEDPMPP2MSampler"), ("CogVideoXDDIMScheduler", "VideoDDIMSampler")]


@pytest.mark.parametrize(("foreign", "own"), PAIRS)
@pytest.mark.parametrize("shift", SHIFTS)
def test_over_diffusers_levels_the_trajectory_is_diffusers(foreign: str, own: str, shift: float) -> None:
    x = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = walk_theirs(foreign, shift, 50, x)
    given = walk_ours(own, 50, levels(foreign, shift, 50).tolist(), x)
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("foreign", "own", "shift", "distance"),
    [(*PAIRS[0], 1.0, 3.65e-3), (*PAIRS[0], 3.0, 3.77e-3), (*PAIRS[1], 1.0, 1.09e-3), (*PAIRS[1], 3.0, 1.43e-3)],
)
def test_over_sats_levels_it_ends_so_far_away(foreign: str, own: str, shift: float, distance: float) -> None:
    """Relative L2 distance of the two results for this network, 50 steps."""
    x = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = walk_theirs(foreign, shift, 50, x)
    alphas = [*build(discretization(shift_scale=shift))(50).tolist(), 1.0]
    given = walk_ours(own, 50, alphas, x)
    assert float((given - expected).norm() / expected.norm()) == pytest.approx(distance, rel=0.05)
