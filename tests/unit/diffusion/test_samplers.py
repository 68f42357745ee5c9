import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cogtune.config.registry import build
from cogtune.errors import UserError
from tests.unit.diffusion.nodes import discretization, guider, sampler

SHAPE = (2, 4, 3, 2, 2)
SAMPLERS = ["VideoDDIMSampler", "VPODEDPMPP2MSampler", "VPSDEDPMPP2MSampler"]
DYNAMIC = {"guider_config": guider("DynamicCFG", scale=6, exp=5, num_steps=50)}


def start(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    return torch.randn(SHAPE, dtype=torch.float64), torch.randn(2, 5, 3).double(), torch.zeros(2, 5, 3).double()


def replay(seed: int = 1) -> Callable[[], Tensor]:
    source = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(SHAPE, generator=source, dtype=torch.float64)


def denoise(x: Tensor, a: Tensor, index: Tensor, context: Tensor) -> Tensor:
    """Some smooth function of everything that a network is given."""
    shift = context.mean((1, 2)) + index / 1000
    return torch.tanh(x * (0.3 + a.view(-1, 1, 1, 1, 1)) + shift.view(-1, 1, 1, 1, 1))


def naive(kind: str, n: int, x: Tensor, cond: Tensor, uncond: Tensor, scales: list[float], noise) -> Tensor:
    """The same walk by the formulas as published: logarithms, and infinities where a = 0, in tensors of one element."""
    levels = [*build(discretization())(n).tolist(), 1.0]
    times = list(range(999, 0, -20)) if n == 50 else [999, 666, 333]
    alphas = torch.tensor(levels, dtype=torch.float64)
    sigmas = (1 - alphas**2).sqrt()
    lambdas = torch.log(alphas / sigmas)
    old = None
    for i in range(n):
        level, time = alphas[i].expand(2), torch.tensor([times[i]] * 2)
        x_u, x_c = denoise(x, level, time, uncond), denoise(x, level, time, cond)
        x0 = x_u + scales[i] * (x_c - x_u)
        a, a_next, s, s_next = alphas[i], alphas[i + 1], sigmas[i], sigmas[i + 1]
        if i == n - 1:
            return x0
        if kind == "VideoDDIMSampler":
            eps = (x - a * x0) / s
            x = a_next * x0 + s_next * eps
            continue
        h = lambdas[i + 1] - lambdas[i]
        d = x0
        if old is not None:
            r = (lambdas[i] - lambdas[i - 1]) / h
            d = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * old
        if kind == "VPODEDPMPP2MSampler":
            x = s_next / s * x - torch.expm1(-h) * a_next * d
        else:
            x = s_next / s * torch.exp(-h) * x - torch.expm1(-2 * h) * a_next * d
            x = x + s_next * torch.sqrt(-torch.expm1(-2 * h)) * noise()
        old = x0
    raise AssertionError("n is at least 1")


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("n", [3, 50])
def test_trajectory_equals_the_naive_one(kind: str, n: int) -> None:
    x, cond, uncond = start()
    made = build(sampler(kind, n, **DYNAMIC))
    scales = [made.guider.scale(i, t, n) for i, t in enumerate(made.timesteps)]
    given = made(denoise, x, cond, uncond, noise=replay())
    expected = naive(kind, n, x, cond, uncond, scales, replay())
    torch.testing.assert_close(given, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", SAMPLERS[:2])
def test_converges_to_the_exact_solution_for_gaussian_data(kind: str) -> None:
    """For data N(0, c^2) the best x_0 is a c^2 x / (a^2 c^2 + s^2), and the deterministic flow ends at c x_init."""
    c, (x, cond, _) = 0.4, start()

    def gaussian(x: Tensor, a: Tensor, *_: Tensor) -> Tensor:
        a = a.view(-1, 1, 1, 1, 1)
        return a * c**2 * x / (a**2 * c**2 + 1 - a**2)

    errors = [float((build(sampler(kind, n))(gaussian, x, cond) - c * x).norm() / x.norm()) for n in (25, 400)]
    assert errors[1] < 0.02
    assert errors[1] < errors[0] / 4


def test_a_network_that_knows_the_answer_is_followed() -> None:
    x, cond, _ = start()
    target = torch.randn(SHAPE, dtype=torch.float64)
    for kind in SAMPLERS:
        given = build(sampler(kind))(lambda *_: target, x, cond, noise=replay())
        torch.testing.assert_close(given, target, rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "draws"), [("VPSDEDPMPP2MSampler", 9), ("VideoDDIMSampler", 0)])
def test_draws_and_calls_are_as_documented(kind: str, draws: int) -> None:
    x, cond, uncond = start()
    counts = {"noise": 0, "denoise": 0}
    steps = []

    def noise() -> Tensor:
        counts["noise"] += 1
        return torch.zeros(SHAPE)

    def counted(x: Tensor, *rest: Tensor) -> Tensor:
        counts["denoise"] += 1
        assert x.shape[0] == 4
        return denoise(x, *rest)

    node = sampler(kind, 10, guider_config=guider("VanillaCFG", scale=2))
    build(node)(counted, x, cond, uncond, noise=noise, on_step=lambda step, _: steps.append(step))
    assert counts == {"noise": draws, "denoise": 10}
    assert steps == list(range(10))


def test_batch_order_is_unconditional_first() -> None:
    x, cond, uncond = start()
    seen = []

    def look(x: Tensor, a: Tensor, index: Tensor, context: Tensor) -> Tensor:
        seen.append((a, index, context))
        return x

    build(sampler("VideoDDIMSampler", 2, guider_config=guider("VanillaCFG", scale=1)))(look, x, cond, uncond)
    a, index, context = seen[0]
    assert torch.equal(context, torch.cat([uncond, cond]))
    assert a.tolist() == [0.0] * 4
    assert index.tolist() == [999] * 4


@pytest.mark.parametrize("sdedit", [False, True])
def test_fixed_frames_keep_the_prefix(sdedit: bool) -> None:
    x, cond, _ = start()
    seen = []

    def look(x: Tensor, a: Tensor, *_: Tensor) -> Tensor:
        seen.append((x[:, :2].clone(), float(a[0])))
        return denoise(x, a, *_)

    node = sampler("VPSDEDPMPP2MSampler", 5, fixed_frames=2, sdedit=sdedit)
    given = build(node)(look, x, cond, noise=lambda: torch.full(SHAPE, 2.0))
    assert torch.equal(given[:, :2], x[:, :2])
    for prefix, a in seen:
        expected = a * x[:, :2] + math.sqrt(1 - a * a) * 2 if sdedit else x[:, :2]
        torch.testing.assert_close(prefix, expected)


def test_keeps_the_dtype_of_the_start() -> None:
    x, cond, _ = start()
    for kind in SAMPLERS:
        given = build(sampler(kind))(lambda x, *_: x.bfloat16(), x.float(), cond, noise=replay())
        assert given.dtype == torch.float32
        assert given.isfinite().all()


def test_one_step() -> None:
    x, cond, _ = start()
    for kind in SAMPLERS:
        assert torch.equal(build(sampler(kind, 1))(lambda x, *_: x + 1, x, cond, noise=replay()), x + 1)


def test_refusals() -> None:
    x, cond, _ = start()
    with pytest.raises(UserError, match="noise="):
        build(sampler("VPSDEDPMPP2MSampler"))(denoise, x, cond)
    with pytest.raises(UserError, match="unconditional"):
        build(sampler("VideoDDIMSampler", guider_config=DYNAMIC["guider_config"]))(denoise, x, cond)
    with pytest.raises(UserError, match="fixed_frames"):
        build(sampler("VideoDDIMSampler", fixed_frames=4))(denoise, x, cond)
    with pytest.raises(UserError, match="num_steps"):
        build(sampler("VideoDDIMSampler", num_steps=0))
