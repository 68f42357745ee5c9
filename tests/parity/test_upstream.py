"""Against what upstream's own code computed (upstream/record.py says how; its commits are in the file's metadata)."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cogtune.config.registry import build
from tests.parity.upstream import cases

Hold = Callable[[str, str, float, float], None]
TENSORS = Path(__file__).parent / "upstream" / "tensors.safetensors"


def recorded(prefix: str) -> dict[str, Tensor]:
    found = load_file(TENSORS)
    return {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}


def difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def test_every_recorded_tensor_is_compared() -> None:
    compared = {f"{kind}/{name}" for kind, names in expected_names() for name in names}
    assert compared == set(recorded(""))


def expected_names() -> Iterator[tuple[str, list[str]]]:
    yield "dit", [f"{dit_name(*case)}/{what}" for case in cases.DITS for what in ("output", "gradients")]
    yield "vae", [*(f"encoded/{n}" for n in cases.ENCODED), *(f"decoded/{n}" for n in cases.DECODED)]
    yield "schedule", list(cases.schedule_nodes())
    yield "sampled", list(cases.sampler_nodes())
    yield "loss", list(cases.loss_nodes())


def dit_name(family: str, lora: bool, T: int, H: int, W: int, B: int) -> str:
    return f"{family}/{'lora' if lora else 'plain'}/{T}x{H}x{W}x{B}"


@pytest.mark.parametrize("case", cases.DITS, ids=lambda case: dit_name(*case))
def test_dit(case: tuple[str, bool, int, int, int, int], hold: Hold) -> None:
    family, lora, *size = case
    dit = cases.filled(build(cases.dit_node(family, lora)))
    ours = cases.dit_results(dit, dit.params.in_channels, *size)
    theirs = recorded(f"dit/{dit_name(*case)}/")
    hold("output, upstream's own", family, difference(ours["output"], theirs["output"]), 1e-6)
    hold("gradients, upstream's own", family, difference(ours["gradients"], theirs["gradients"]), 5e-6)


@torch.no_grad()
def test_vae(hold: Hold) -> None:
    vae, theirs = cases.filled(build(cases.vae_node())), recorded("vae/")
    for frames in cases.ENCODED:
        moments = vae.encode(cases.video(frames))
        hold("moments, upstream's own", "VAE", difference(moments, theirs[f"encoded/{frames}"]), 5e-6)
    for frames in cases.DECODED:
        video = vae.decode(cases.latent(frames))
        hold("decoded video, upstream's own", "VAE", difference(video, theirs[f"decoded/{frames}"]), 5e-6)


@pytest.mark.parametrize("name", cases.schedule_nodes())
def test_schedule(name: str) -> None:
    steps, node = cases.schedule_nodes()[name]
    torch.testing.assert_close(build(node)(steps).float(), recorded("schedule/")[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", cases.sampler_nodes())
def test_trajectory(name: str, hold: Hold) -> None:
    shift, node = cases.sampler_nodes()[name]
    sampler, denoiser = build(node), build(cases.denoiser_node(shift))
    kinds = ("prefix", "noise") if sampler.params.sdedit else ("noise",)
    noise = (cases.drawn(f"{kind} {step}", *cases.LATENT) for step in range(sampler.steps) for kind in kinds)
    context = cases.drawn("context", 1, 5, 8)
    x0 = sampler(
        lambda x, a, index, said: denoiser(cases.toy, x, a, index, said),
        cases.drawn("start", *cases.LATENT),
        context,
        torch.zeros_like(context),
        noise=noise.__next__,
    )
    hold("trajectory, upstream's own", "diffusion", difference(x0, recorded("sampled/")[name]), 5e-6)


@pytest.mark.parametrize("name", cases.loss_nodes())
def test_loss(name: str) -> None:
    _, node = cases.loss_nodes()[name]
    x0, context = cases.drawn("x0", 3, *cases.LATENT[1:]), cases.drawn("context", 3, 5, 8)
    ours = build(node)(cases.toy, x0, context, cases.INDEX_B, cases.drawn("noise", *x0.shape))
    # l1's weight at timestep 0 is 1 / sqrt(1 - a^2) with a = 0.9996, which upstream computes in fp32; in l2 it cancels.
    assert difference(ours, recorded("loss/")[name]) <= (5e-5 if name.startswith("l1") else 1e-6)
