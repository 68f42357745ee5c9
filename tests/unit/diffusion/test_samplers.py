import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cogtune.config.build import build
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


@dataclass(frozen=True)
class Walk:
    """What a trajectory depends on beside the kind of sampler; ``scale`` is the guidance at (step, timestep)."""

    n: int
    shift: float = 1.0
    scale: Callable[[int, int], float] | None = None
    prefix: int = 0
    sdedit: bool = False

    def node(self, kind: str, guider_config: dict[str, Any] | None) -> dict[str, Any]:
        table = {"discretization_config": discretization(shift_scale=self.shift), "guider_config": guider_config}
        return sampler(kind, self.n, **table, fixed_frames=self.prefix, sdedit=self.sdedit)


def naive(kind: str, walk: Walk, x: Tensor, cond: Tensor, uncond: Tensor, noise: Callable[[], Tensor]) -> Tensor:
    """The same walk by the formulas as published: logarithms, and infinities where a = 0, in tensors of one element."""
    n, k = walk.n, walk.prefix
    levels = [*build(discretization(shift_scale=walk.shift))(n).tolist(), 1.0]
    times = {3: [999, 666, 333], 6: [999, 832, 666, 499, 333, 166], 50: list(range(999, 0, -20))}[n]
    alphas = torch.tensor(levels, dtype=torch.float64)
    sigmas = (1 - alphas**2).sqrt()
    lambdas = torch.log(alphas / sigmas)
    old, clean = None, x[:, :k].clone()
    for i in range(n):
        a, a_next, s, s_next = alphas[i], alphas[i + 1], sigmas[i], sigmas[i + 1]
        if k:
            x = x.clone()
            x[:, :k] = a * clean + s * noise()[:, :k] if walk.sdedit else clean
        level, time = a.expand(2), torch.tensor([times[i]] * 2)
        x0 = denoise(x, level, time, cond)
        if walk.scale is not None:
            x_u = denoise(x, level, time, uncond)
            x0 = x_u + walk.scale(i, times[i]) * (x0 - x_u)
        h = lambdas[i + 1] - lambdas[i]
        d = x0
        if old is not None and kind != "VideoDDIMSampler":
            r = (lambdas[i] - lambdas[i - 1]) / h
            d = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * old
        if i == n - 1:
            x = x0
        elif kind == "VideoDDIMSampler":
            x = a_next * x0 + s_next * (x - a * x0) / s
        elif kind == "VPODEDPMPP2MSampler":
            x = s_next / s * x - torch.expm1(-h) * a_next * d
        else:
            x = s_next / s * torch.exp(-h) * x - torch.expm1(-2 * h) * a_next * d
            x = x + s_next * torch.sqrt(-torch.expm1(-2 * h)) * noise()
        old = x0
    return torch.cat([clean, x[:, k:]], dim=1)


def dynamic(n: int, k: Callable[[int, int], float]) -> Callable[[int, int], float]:
    return lambda step, t: 1 + 6 * (1 - math.cos(math.pi * (k(step, t) / n) ** 5)) / 2


GUIDERS = {
    "none": (None, None),
    "vanilla": (guider("VanillaCFG", scale=6), lambda n: lambda step, t: 6.0),
    "dynamic": (guider("DynamicCFG", scale=6, exp=5, num_steps=50), lambda n: dynamic(50, lambda step, t: n - t)),
    "ramp": (
        guider("DynamicCFG", scale=6, exp=5, num_steps=50, schedule="step_index"),
        lambda n: dynamic(50, lambda step, t: step),
    ),
}


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("guided", GUIDERS)
@pytest.mark.parametrize("walk", [Walk(3), Walk(6, 3.0), Walk(50), Walk(50, 3.0)], ids=str)
def test_trajectory_equals_the_naive_one(kind: str, guided: str, walk: Walk) -> None:
    x, cond, uncond = start()
    config, scale = GUIDERS[guided]
    walk = replace(walk, scale=scale(walk.n) if scale else None)
    given = build(walk.node(kind, config))(denoise, x, cond, uncond, noise=replay())
    torch.testing.assert_close(given, naive(kind, walk, x, cond, uncond, replay()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("sdedit", [False, True])
def test_trajectory_behind_a_prefix_equals_the_naive_one(kind: str, sdedit: bool) -> None:
    x, cond, uncond = start()
    walk = Walk(6, scale=lambda step, t: 6.0, prefix=2, sdedit=sdedit)
    given = build(walk.node(kind, guider("VanillaCFG", scale=6)))(denoise, x, cond, uncond, noise=replay())
    torch.testing.assert_close(given, naive(kind, walk, x, cond, uncond, replay()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_trajectory_can_be_replayed(kind: str) -> None:
    """From the start and the recorded noise alone, whatever generator gave it."""
    x, cond, _ = start()
    source, tape = replay(8), list[Tensor]()

    def recorded() -> Tensor:
        tape.append(source())
        return tape[-1]

    first = build(sampler(kind, 6))(denoise, x, cond, noise=recorded)
    again = build(sampler(kind, 6))(denoise, x, cond, noise=iter(tape).__next__)
    assert torch.equal(first, again)
    assert len(tape) == (5 if kind == "VPSDEDPMPP2MSampler" else 0)


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
