"""The image condition: where it stands, how it is scaled, and how much noise training puts on it."""

import math
from typing import Any

import pytest
import torch

from cogtune.config.build import build
from cogtune.diffusion.image import ImageCondition, image_condition, noised
from cogtune.diffusion.loss import VideoDiffusionLoss
from tests.unit.diffusion.nodes import loss


def test_the_first_frame_and_zeros() -> None:
    latent_BCHW = torch.randn(2, 4, 2, 3)
    made = ImageCondition(0.7)(latent_BCHW, 3)
    assert made.shape == (2, 3, 4, 2, 3)
    assert torch.equal(made[:, 0], latent_BCHW * 0.7)
    assert (made[:, 1:] == 0).all()


def test_everywhere_repeats_it() -> None:
    latent_BCHW = torch.randn(2, 4, 2, 3)
    made = ImageCondition(2.0, everywhere=True)(latent_BCHW, 3)
    assert all(torch.equal(made[:, frame], latent_BCHW * 2) for frame in range(3))


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_dropped_image_is_zero_in_its_own_sample_only(everywhere: bool) -> None:
    latent_BCHW = torch.randn(3, 4, 2, 3)
    latent_BCHW[1] = math.nan  # a product with zero would keep it
    condition = ImageCondition(0.7, everywhere)
    made = condition(latent_BCHW, 2, torch.tensor([True, False, True]))
    assert (made[1] == 0).all()
    assert torch.equal(made[::2], condition(latent_BCHW[::2], 2))


def test_noise_is_log_normal_with_upstreams_median() -> None:
    image, noise = torch.zeros(3, 4, 4), torch.ones(3, 4, 4)
    sigma = [float(noised(image, z, noise).mean()) for z in (-1.0, 0.0, 1.0)]
    assert sigma == pytest.approx([math.exp(-3.5), math.exp(-3), math.exp(-2.5)], rel=1e-6)
    assert sigma[1] == pytest.approx(0.0498, abs=1e-4)


def test_a_network_gets_noise_channels_first() -> None:
    """x_t in the first C channels, the condition in the last C, in the loss as in the denoiser."""
    made: VideoDiffusionLoss = build(loss())
    x0, noise, latent = torch.randn(2, 3, 4, 2, 3), torch.randn(2, 3, 4, 2, 3), torch.randn(2, 4, 2, 3)
    seen = []

    def network(x: Any, *_, **__: Any):
        seen.append(x)
        return x[:, :, :4]

    index = torch.tensor([10, 900])
    made(network, x0, x0, index, noise, concat=ImageCondition(0.7)(latent, 3))  # pyright: ignore
    a = made.sampling.alpha(index).float().view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(seen[0][:, :, :4], a * x0 + (1 - a**2).sqrt() * noise)
    assert torch.equal(seen[0][:, 0, 4:], latent * 0.7)
    assert (seen[0][:, 1:, 4:] == 0).all()


def test_of_a_config() -> None:
    assert image_condition(False, None, False) is None
    assert image_condition(True, 0.7, True) == ImageCondition(0.7, everywhere=True)
