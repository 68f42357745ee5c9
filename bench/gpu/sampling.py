"""Group `sampling`: a video from noise, guided, with the config's sampler, and the VAE's decoder at the end."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.gpu.bench import Bench
from bench.gpu.results import Row
from bench.gpu.setting import Setting
from cogtune.config.build import build, params_of
from cogtune.plan.stage_costs import SampleCost
from cogtune.sampling.generate import Generator, latent_shape, samplers


class _Decoder:
    """The VAE behind a cast of the sampler's fp32 latents, as the sample stage uses it."""

    def __init__(self, vae: Any) -> None:
        self._vae = vae

    def decode(self, latent_BCTHW: Tensor) -> Tensor:
        return self._vae.decode(latent_BCTHW.bfloat16())


_STEPS = 50
_WARM_UP = 2


def run(bench: Bench) -> None:
    for model in bench.models:
        if model != "1.5":  # its 50 steps take seven minutes
            with bench.fresh():
                _sample(bench, Setting(model, lora=0, tiny=bench.tiny))


@torch.no_grad()
def _sample(bench: Bench, setting: Setting) -> None:
    model, steps = setting.values["model"], 3 if bench.tiny else _STEPS
    row = Row("sampling", setting.model, f"{steps} steps, guided", "cogtune", None, "videos")
    if bench.late:
        bench.time(row, lambda: None)
        return
    network, vae = setting.network(bench.device).eval(), _Decoder(setting.vae(bench.device))
    denoiser = build(model["denoiser_config"])
    frames, height, width = setting.costs.clip
    decoder = params_of(params_of(model["first_stage_config"]).decoder_config)
    generator = Generator(
        denoise=lambda x, a, index, context, concat: denoiser(network, x, a, index, context, concat=concat),
        vae=vae,
        shape=latent_shape(decoder, frames, (height, width), 4),
        scale_factor=model["scale_factor"],
        seed=0,
        device=bench.device,
    )
    _, _, context_BLD = setting.inputs(bench.device)

    def videos(count: int) -> None:
        generator.videos(["video"], context_BLD, samplers(model["sampler_config"], count)[True])

    cost, planned = setting.costs, None
    flops = 2 * steps * cost.network.flops(cost.grid) + cost.vae.decode_flops(*cost.clip)
    if bench.rate:
        planned = flops / (bench.rate * SampleCost.gpu)
    row = replace(row, planned_seconds=planned, planned_peak=SampleCost(cost).device_bytes(1))
    bench.time(row, lambda: videos(steps), flops, warm_up=lambda: videos(_WARM_UP))
