"""Stage `images`: adds noise to the first frame of every clip and encodes it, for image-to-video training.

Upstream adds new noise to the pixels of the first frame at every step, and encodes the result. We store
`args.image_noise_draws` such encodings per clip, and training draws one of them at every step; it still samples the
posterior each time. The noise depends on the clip and on the draw, not on the training seed, so runs with different
seeds share the rows.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from cogtune.config.build import build
from cogtune.data.clips import to_unit_range
from cogtune.data.listing import ClipRow
from cogtune.data.pipeline import map_over_devices
from cogtune.data.rows import ImageRow, clip_plans
from cogtune.data.store import ShardReader, ShardWriter
from cogtune.diffusion.image import noised
from cogtune.diffusion.noise import generator
from cogtune.runtime.devices import devices, dtype_of, prepare_torch
from cogtune.stages.job import Job
from cogtune.stages.latents import accepted, check_finite, decoded
from cogtune.stages.make_rows import make_rows
from cogtune.stages.preprocess import clips_of
from cogtune.stages.run_counts import EncodedCounts, RunCounts
from cogtune.work.inputs import ImagesInput

_PURPOSE = "noised_image"


def run(job: Job[ImagesInput]) -> RunCounts:
    """One row per clip accepted by preprocess: ``moments`` (K, 2C, h, w), mean and log-variance of K noised copies of
    its first frame; with `args.image_noise_draws: 0`, of one copy without noise.
    """
    clips, prepared = clips_of(job.manifest()), job.rows("preprocess")
    usable = accepted(clips, prepared)
    counts = make_rows(
        job, [[clip] for clip in usable], lambda missing: _encode(job, [clips[clip] for clip in missing], prepared)
    )
    if job.part:
        return counts
    return EncodedCounts(made=counts.made, reused=counts.reused, skipped=len(clips) - len(usable))


def _encode(job: Job[ImagesInput], rows: list[ClipRow], prepared: ShardReader) -> None:
    settings = job.input
    prepare_torch(job.ranks * settings.threads)
    plans = {clip: plan.first_frame() for clip, plan in clip_plans(prepared, (row.clip for row in rows)).items()}
    with job.proven("model.first_stage_config"):
        encoders = [_encoder(settings, device) for device in devices(job.one_device)]
    with (
        ShardWriter(job.items_dir(), settings.flush_megabytes, settings.flush_seconds) as writer,
        job.progress(len(rows), "images", "clips") as bar,
    ):
        for row, moments_KCHW in map_over_devices(decoded(job, rows, plans), encoders):
            check_finite(row, moments_KCHW, settings.precision)
            ImageRow(moments_KCHW).add(writer, row.clip)
            bar.advance()


def _encoder(settings: ImagesInput, device: torch.device) -> Callable[[tuple[ClipRow, Tensor]], tuple[ClipRow, Tensor]]:
    """A copy of the VAE on ``device``, as a function from a first frame to the moments of its noised copies."""
    dtype = dtype_of(settings.precision)
    vae = build(settings.vae).to(device, dtype)

    @torch.no_grad()
    def encode(item: tuple[ClipRow, Tensor]) -> tuple[ClipRow, Tensor]:
        row, pixels_1CHW = item
        copies_KCHW = noised_copies(to_unit_range(pixels_1CHW[0]), row.clip, settings.draws)
        return row, vae.encode(copies_KCHW[:, :, None].to(device, dtype))[:, :, 0].cpu()

    return encode


def noised_copies(image_CHW: Tensor, clip: str, draws: int) -> Tensor:
    """(draws, C, H, W): copies of an image in [-1, 1], each with noise keyed by (clip, draw); for 0 draws, the image
    itself as (1, C, H, W)."""
    if not draws:
        return image_CHW[None]
    copies = []
    for draw in range(draws):
        source = generator(0, _PURPOSE, clip, draw)
        sigma_normal = float(torch.randn((), generator=source))
        copies.append(noised(image_CHW, sigma_normal, torch.randn(image_CHW.shape, generator=source)))
    return torch.stack(copies)
