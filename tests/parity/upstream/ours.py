"""Our results for the cases that upstream's own code was recorded on, and how far they lie from those."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from cogtune.config.build import build
from cogtune.model import embeddings
from tests.families import difference
from tests.parity.upstream import cases

Case = tuple[str, str, int, int, int, int]


def recorded(prefix: str) -> dict[str, Tensor]:
    """Upstream's tensors below ``prefix``, by the rest of their names."""
    found = load_file(cases.TENSORS)
    return {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}


@contextmanager
def upstreams_timesteps() -> Iterator[None]:
    """The timestep embedding is the recorded one; `limits.py` says why. That of ofs, 2.0, stays ours."""
    ours = embeddings.sinusoid
    theirs: dict[int, Tensor] = dict(zip(cases.TIMESTEPS, recorded("timesteps")[""], strict=True))

    def given(value_B: Tensor, dim: int) -> Tensor:
        if set(value_B.tolist()) <= set(theirs):
            return torch.stack([theirs[int(value)] for value in value_B])
        return ours(value_B, dim)

    embeddings.sinusoid = given
    try:
        yield
    finally:
        embeddings.sinusoid = ours


def network(case: Case) -> Any:
    family, kind, *_ = case
    return cases.filled(build(cases.dit_node(family, kind)), kind)


def network_errors(case: Case, dit: Any) -> dict[str, float]:
    """Of `output` and of `gradients`."""
    theirs = recorded(f"{cases.dit_name(*case)}/")
    with upstreams_timesteps():
        ours = cases.dit_results(dit, dit.params.in_channels, *case[2:])
    return {what: difference(ours[what], theirs[what]) for what in ours}


def timestep_ulps() -> float:
    """Largest error of the timestep embedding in units of the last place of the angle, or of 1 below it: (2, WIDTH)."""
    theirs = recorded("timesteps")[""]
    steps = torch.tensor(cases.TIMESTEPS)
    frequency_K = 1e4 ** (torch.arange(cases.WIDTH // 2, dtype=torch.float64) * (-2 / cases.WIDTH))
    ulp_BK = (steps.double()[:, None] * frequency_K).clamp(min=1) * torch.finfo(torch.float32).eps
    error = (embeddings.sinusoid(steps, cases.WIDTH) - theirs).abs()
    return float((error / torch.cat([ulp_BK, ulp_BK], dim=1)).max())


@torch.no_grad()
def vae_errors() -> dict[str, float]:
    """Largest of `moments` and of `decoded video`."""
    vae, theirs = cases.filled(build(cases.vae_node())), recorded("vae/")
    moments = [difference(vae.encode(cases.video(n)), theirs[f"encoded/{n}"]) for n in cases.ENCODED]
    decoded = [difference(vae.decode(cases.latent(n)), theirs[f"decoded/{n}"]) for n in cases.DECODED]
    return {"moments": max(moments), "decoded video": max(decoded)}


def schedule_error(name: str) -> float:
    steps, node = cases.schedule_nodes()[name]
    return difference(build(node)(steps), recorded("schedule/")[name])


def trajectory_error(name: str, toy: Callable[..., Tensor] = cases.toy) -> float:
    shift, node = cases.sampler_nodes()[name]
    sampler, denoiser = build(node), build(cases.denoiser_node(shift))
    kinds = ("prefix", "noise") if sampler.params.sdedit else ("noise",)
    noise = (cases.drawn(f"{kind} {step}", *cases.LATENT) for step in range(sampler.steps) for kind in kinds)
    x0 = sampler(
        lambda x, a, index, said: denoiser(toy, x, a, index, said),
        cases.drawn("start", *cases.LATENT),
        cases.context(1),
        torch.zeros_like(cases.context(1)),
        noise=noise.__next__,
    )
    return difference(x0, recorded("sampled/")[name])


def loss_error(name: str) -> float:
    """l1 is weighted by 1/s, s^2 = 1 - a^2. Upstream computes s^2 in fp32, where a = 0.9996 at timestep 0 leaves it 11 bits
    fewer; that has nothing to do with order, so ours is given the same s^2 here. In l2 the weight cancels."""
    _, node = cases.loss_nodes()[name]
    loss, x0 = build(node), cases.drawn("x0", 3, *cases.LATENT[1:])
    ours = loss(cases.toy, x0, cases.context(3), cases.INDEX_B, cases.drawn("noise", *x0.shape))
    if name.startswith("l1"):
        a = loss.sampling.alpha(cases.INDEX_B)
        ours = ours * ((1 - a**2) / (1 - a.float() ** 2)).sqrt()
    return difference(ours, recorded("loss/")[name])
