"""Group `encoders`: what fills the caches. The VAE's encoder beside diffusers', and T5 v1.1-XXL (transformers' own).

Both in bf16 with random weights. The VAE also with the channels last, which spares cuDNN its copies. T5 gets token numbers:
its tokenizer runs on the CPU.
"""

from dataclasses import asdict
from typing import Any

import torch

from bench.gpu.bench import Bench
from bench.gpu.results import Row
from bench.gpu.setting import Setting, filled
from cogtune.plan.cache_costs import LatentsCost, TextCost
from cogtune.plan.cost.text_encoder import XXL, T5Sizes

_BATCH = 16
_TINY_T5 = T5Sizes(64, 16, 128, 2, 4, 256, "gated-gelu")


def run(bench: Bench) -> None:
    setting = Setting("5b", tiny=bench.tiny)
    for last in (False, True):
        with bench.fresh():
            _vae(bench, setting, last)
    if bench.peer:
        with bench.fresh():
            _diffusers_vae(bench, setting)
    with bench.fresh():
        _t5(bench, setting)


def _video(bench: Bench, setting: Setting) -> torch.Tensor:
    frames, height, width = setting.costs.clip
    return torch.rand(1, 3, frames, height, width, device=bench.device).mul(2).sub(1).bfloat16()


def _case(setting: Setting) -> str:
    return "encode " + "x".join(str(size) for size in setting.costs.clip)


def _vae(bench: Bench, setting: Setting, last: bool) -> None:
    vae, video_BCTHW = setting.vae(bench.device), _video(bench, setting)
    if last:
        video_BCTHW = video_BCTHW.to(memory_format=torch.channels_last_3d)
        for weight in vae.parameters():
            if weight.ndim == video_BCTHW.ndim:
                weight.data = weight.data.to(memory_format=torch.channels_last_3d)
    seconds, peak = setting.planned(LatentsCost, bench.rate)

    @torch.no_grad()
    def encode() -> None:
        vae.encode(video_BCTHW)

    side = "cogtune, channels last" if last else "cogtune"
    planned = {} if last else {"planned_seconds": seconds, "planned_peak": peak}
    flops = setting.costs.vae.encode_flops(*setting.costs.clip)
    bench.time(Row("encoders", "vae", _case(setting), side, None, "clips", **planned), encode, flops)


def _diffusers_vae(bench: Bench, setting: Setting) -> None:
    """In chunks of 8 frames, as its pipelines use it: whole clips need more memory than its convolutions can index."""
    from bench.sides import diffusers_vae

    with torch.device("meta"):
        twin = diffusers_vae(setting.values["model"]["first_stage_config"]).to(torch.bfloat16)
    vae, video_BCTHW = filled(twin, bench.device).eval(), _video(bench, setting)

    @torch.no_grad()
    def encode() -> None:
        vae.encode(video_BCTHW)

    bench.time(Row("encoders", "vae", _case(setting), "diffusers", None, "clips"), encode)


def _t5(bench: Bench, setting: Setting) -> None:
    from transformers import T5Config, T5EncoderModel

    sizes, length = (_TINY_T5 if bench.tiny else XXL), setting.costs.tokens_of_text
    with torch.device("meta"):
        encoder: Any = T5EncoderModel(T5Config(**asdict(sizes)))
        encoder.to(torch.bfloat16)
    encoder = filled(encoder, bench.device).eval()
    tokens_BL = torch.randint(0, sizes.vocab_size, (_BATCH, length), device=bench.device)

    @torch.no_grad()
    def encode() -> None:
        encoder(input_ids=tokens_BL)

    case = f"{length} tokens, batches of {_BATCH}"
    seconds, peak = (None, None) if bench.tiny else setting.planned(TextCost, bench.rate, _BATCH)
    bench.time(
        Row("encoders", "t5", case, "cogtune", None, "captions", _BATCH, planned_seconds=seconds, planned_peak=peak),
        encode,
    )
