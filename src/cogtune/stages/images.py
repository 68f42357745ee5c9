"""Stage `images`: the first frame of every clip, noised and encoded, for image-to-video training.

Upstream noises the first frame anew at every step, in pixels, and encodes it. The cache holds `args.image_noise_draws`
such encodings of each clip, of which training draws one each time; the posterior is still sampled afresh. The noise
depends on the clip and on the draw, not on the seed of training, so runs that differ in their seed share the rows.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cogtune.config.build import build
from cogtune.data.clips import to_unit_range
from cogtune.data.listing import ClipRow
from cogtune.data.pipeline import on_all
from cogtune.data.rows import ImageRow, clip_plans
from cogtune.data.store import ShardReader, ShardWriter
from cogtune.diffusion.image import noised
from cogtune.diffusion.noise import generator
from cogtune.runtime.devices import devices, dtype_of, set_threads
from cogtune.stages.job import Job, missing
from cogtune.stages.latents import accepted, check_finite, decoded
from cogtune.stages.preprocess import clips_of
from cogtune.work.inputs import ImagesInput

_PURPOSE = "noised_image"


def run(job: Job[ImagesInput]) -> dict[str, Any]:
    """One row for every clip that preprocess accepted: ``moments`` (K, 2C, h, w), mean and log-variance of K noised
    copies of its first frame; K = 1 and no noise for `args.image_noise_draws: 0`.
    """
    clips, prepared = clips_of(job.manifest()), job.rows("preprocess")
    usable = accepted(clips, prepared)
    lacking = missing(usable, job.rows().ids())
    if lacking:
        _encode(job, [clips[clip] for clip in lacking], prepared)
    return {"made": len(lacking), "reused": len(usable) - len(lacking), "skipped": len(clips) - len(usable)}


def _encode(job: Job[ImagesInput], rows: list[ClipRow], prepared: ShardReader) -> None:
    given = job.input
    set_threads(job.ranks * given.threads)
    plans = {clip: plan.first_frame() for clip, plan in clip_plans(prepared, (row.clip for row in rows)).items()}
    with job.proven("model.first_stage_config"):
        encoders = [_encoder(given, device) for device in devices()]
    with (
        ShardWriter(job.items_dir(), given.flush_megabytes, given.flush_seconds) as writer,
        job.progress(len(rows), "images", "clips") as bar,
    ):
        for row, moments_KCHW in on_all(decoded(job, rows, plans), encoders):
            check_finite(row, moments_KCHW, given.precision)
            ImageRow(moments_KCHW).add(writer, row.clip)
            bar.advance()


def _encoder(given: ImagesInput, device: torch.device) -> Callable[[tuple[ClipRow, Tensor]], tuple[ClipRow, Tensor]]:
    """A copy of the VAE on ``device``, as a function from a first frame to the moments of its noised copies."""
    dtype = dtype_of(given.precision)
    vae = build(given.vae).to(device, dtype)

    @torch.no_grad()
    def encode(item: tuple[ClipRow, Tensor]) -> tuple[ClipRow, Tensor]:
        row, pixels_1CHW = item
        copies_KCHW = noised_copies(to_unit_range(pixels_1CHW[0]), row.clip, given.draws)
        return row, vae.encode(copies_KCHW[:, :, None].to(device, dtype))[:, :, 0].cpu()

    return encode


def noised_copies(image_CHW: Tensor, clip: str, draws: int) -> Tensor:
    """(draws, C, H, W): copies of an image in [-1, 1] under noise that depends on (clip, draw); itself for 0 draws."""
    if not draws:
        return image_CHW[None]
    copies = []
    for draw in range(draws):
        source = generator(0, _PURPOSE, clip, draw)
        sigma_normal = float(torch.randn((), generator=source))
        copies.append(noised(image_CHW, sigma_normal, torch.randn(image_CHW.shape, generator=source)))
    return torch.stack(copies)
