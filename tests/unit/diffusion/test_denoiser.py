from typing import Any

import pytest
import torch

from cogtune.config.build import build
from cogtune.errors import UserError
from tests.unit.diffusion.nodes import denoiser, discretization

SHAPE = (2, 3, 4, 2, 2)


def test_recovers_the_clean_latent_from_the_true_v() -> None:
    torch.manual_seed(0)
    table = build(discretization())(1000, flip=True)
    x0, eps = torch.randn(SHAPE, dtype=torch.float64), torch.randn(SHAPE, dtype=torch.float64)
    index = torch.tensor([999, 250])
    a = table[index]
    a5, s5 = a.view(-1, 1, 1, 1, 1), (1 - a**2).sqrt().view(-1, 1, 1, 1, 1)
    seen = {}

    def network(x: Any, timesteps: Any, context: Any, ofs: Any):
        seen.update(x=x, timesteps=timesteps, context=context, ofs=ofs)
        return a5 * eps - s5 * x0

    x_t = a5 * x0 + s5 * eps
    context = torch.randn(2, 5, 6)
    torch.testing.assert_close(build(denoiser())(network, x_t, a, index, context, ofs=2.0), x0, rtol=0, atol=1e-12)
    assert seen["x"] is x_t or torch.equal(seen["x"], x_t)
    assert torch.equal(seen["timesteps"], index)
    assert seen["ofs"] == 2.0


def test_snaps_the_level_to_the_training_table() -> None:
    """0.492609 is a sampler's level; the network's output is scaled by that of training, 0.492300."""
    table = build(discretization())(1000, flip=True)
    x = torch.ones((1, *SHAPE[1:]), dtype=torch.float64)
    given = build(denoiser())(
        lambda x, *_, **__: torch.zeros_like(x), x, torch.tensor([0.492609]), torch.tensor([499]), x
    )
    assert float(given.max()) == pytest.approx(float(table[499]), abs=1e-12)


def test_condition_channels_follow_the_noise_and_serve_a_guided_batch() -> None:
    x, concat = torch.zeros(SHAPE), torch.ones(1, 3, 2, 2, 2)
    widths = []

    def network(x: Any, *_, **__: Any):
        widths.append(x)
        return x[:, :, :4]

    build(denoiser())(network, x, torch.tensor([0.5, 0.5]), torch.tensor([1, 1]), x, concat=concat)
    assert widths[0].shape == (2, 3, 6, 2, 2)
    assert (widths[0][:, :, 4:] == 1).all()
    with pytest.raises(UserError, match="image condition"):
        build(denoiser())(network, x, torch.tensor([0.5]), torch.tensor([1]), x, concat=torch.ones(1, 2, 2, 2, 2))


@pytest.mark.parametrize("params", [{"quantize_c_noise": True}, {"do_append_zero": True}, {"flip": False}])
def test_refuses_what_would_number_levels_wrongly(params: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(params))):
        build(denoiser(**params))


def test_eps_weighting() -> None:
    weighting = build(denoiser()["params"]["weighting_config"])
    assert float(weighting(torch.tensor(2.0))) == 0.25
