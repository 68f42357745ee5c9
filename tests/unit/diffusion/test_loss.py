from typing import Any

import pytest
import torch

from cogtune.config.build import build
from cogtune.errors import UserError
from tests.unit.diffusion.nodes import discretization, loss

SHAPE = (3, 2, 4, 2, 3)


def sample() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return torch.randn(SHAPE), torch.randn(SHAPE), torch.tensor([0, 500, 999]), torch.randn(SHAPE)


def upstream_l2(x0: Any, noise: Any, index: Any, v_hat: Any, cap: float | None = None) -> torch.Tensor:
    """min(1/(1 - a^2), cap) times the error of x_0, in float64, as upstream writes it."""
    a = build(discretization())(1000, flip=True)[index].view(-1, 1, 1, 1, 1)
    s = (1 - a**2).sqrt()
    x_t = a * x0.double() + s * noise.double()
    x0_hat = a * x_t - s * v_hat.double()
    weight = 1 / (1 - a**2)
    if cap is not None:
        weight = weight.clamp(max=cap)
    return (weight * (x0_hat - x0.double()) ** 2).flatten(1).mean(1)


@pytest.mark.parametrize("cap", [None, 5.0])
def test_is_the_weighted_error_of_the_clean_latent(cap: float | None) -> None:
    x0, noise, index, v_hat = sample()
    given = build(loss(min_snr_value=cap))(lambda *_, **__: v_hat, x0, x0, index, noise)
    assert given.dtype == torch.float32
    torch.testing.assert_close(given.double(), upstream_l2(x0, noise, index, v_hat, cap), rtol=1e-5, atol=0)


def test_is_zero_for_the_true_v_and_noises_as_told() -> None:
    x0, noise, index, _ = sample()
    a = build(discretization())(1000, flip=True)[index].float().view(-1, 1, 1, 1, 1)
    s = (1 - a**2).sqrt()

    def network(x_t: Any, timesteps: Any, context: Any, ofs: Any):
        torch.testing.assert_close(x_t, a * x0 + s * noise)
        assert torch.equal(timesteps, index)
        return a * noise - s * x0

    assert build(loss())(network, x0, x0, index, noise).max() < 1e-12


def test_bf16_latents_and_output_are_compared_in_fp32() -> None:
    x0, noise, index, v_hat = sample()
    low = v_hat.bfloat16()
    given = build(loss())(lambda *_, **__: low, x0.bfloat16(), x0, index, noise)
    expected = upstream_l2(x0.bfloat16().float(), noise, index, low.float())
    torch.testing.assert_close(given.double(), expected, rtol=1e-5, atol=0)


def test_l1() -> None:
    x0, noise, index, v_hat = sample()
    a = build(discretization())(1000, flip=True)[index].view(-1, 1, 1, 1, 1)
    s = (1 - a**2).sqrt()
    error = (a * (a * x0 + s * noise) - s * v_hat - x0).abs() / s**2
    given = build(loss(type="l1"))(lambda *_, **__: v_hat, x0, x0, index, noise)
    torch.testing.assert_close(given.double(), error.flatten(1).mean(1), rtol=1e-5, atol=0)


def test_offset_noise_is_one_number_per_sample() -> None:
    x0, noise, index, v_hat = sample()
    offset = torch.tensor([1.0, -2.0, 0.5])
    made = build(loss(offset_noise_level=0.1))
    given = made(lambda *_, **__: v_hat, x0, x0, index, noise, offset_B=offset)
    shifted = noise + 0.1 * offset.view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(given, build(loss())(lambda *_, **__: v_hat, x0, x0, index, shifted))
    with pytest.raises(UserError, match="offset_B"):
        made(lambda *_, **__: v_hat, x0, x0, index, noise)


def test_image_condition_and_ofs_reach_the_network() -> None:
    x0, noise, index, v_hat = sample()
    concat = torch.full((3, 2, 1, 2, 3), 7.0)

    def network(x_t: Any, timesteps: Any, context: Any, ofs: Any):
        assert (x_t[:, :, 4:] == 7).all()
        assert x_t.shape[2] == 5
        assert ofs == 2.0
        return v_hat

    build(loss())(network, x0, x0, index, noise, concat=concat, ofs=2.0)


def test_refuses_a_pixel_loss() -> None:
    with pytest.raises(UserError, match="l2 or l1"):
        build(loss(type="lpips"))
