"""Stage `latents`: decodes, resizes and encodes clips with the 3D VAE, and stores the moments. Decoding and encoding
overlap."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from cogtune.config.build import build
from cogtune.data.clips import load_clip, to_unit_range
from cogtune.data.decoder import Decoder
from cogtune.data.listing import ClipRow
from cogtune.data.pipeline import decode_ahead, in_batches, map_over_devices
from cogtune.data.rows import ClipPlan, LatentRow, Rejected, clip_plans, prepared_rows
from cogtune.data.store import ShardReader, ShardWriter
from cogtune.data.video import VideoError
from cogtune.errors import UserError
from cogtune.runtime.devices import devices, dtype_of, prepare_torch
from cogtune.stages.job import Job
from cogtune.stages.make_rows import make_rows
from cogtune.stages.preprocess import clips_of, source_of, unreachable
from cogtune.stages.run_counts import EncodedCounts, RunCounts
from cogtune.work.content_hashes import proven
from cogtune.work.inputs import EncodingInput, LatentsInput

Batch = list[tuple[ClipRow, Tensor]]


def run(job: Job[LatentsInput]) -> RunCounts:
    """One row per clip accepted by preprocess: ``moments`` (2C, T, h, w), the encoder's mean and log-variance, from which
    training samples a new latent each time. Raises UserError for a clip that cannot be read or encoded.
    """
    clips, prepared = clips_of(job.manifest()), job.rows("preprocess")
    usable = accepted(clips, prepared)
    counts = make_rows(
        job, [[clip] for clip in usable], lambda missing: _encode(job, [clips[clip] for clip in missing], prepared)
    )
    if job.part:
        return counts
    return EncodedCounts(made=counts.made, reused=counts.reused, skipped=len(clips) - len(usable))


def _encode(job: Job[LatentsInput], rows: list[ClipRow], prepared: ShardReader) -> None:
    settings = job.input
    # This stage is a single process, so it uses the threads of all training ranks.
    prepare_torch(job.ranks * settings.threads)
    with job.proven("model.first_stage_config"):
        encoders = [_encoder(settings, device) for device in devices(job.one_device)]
    plans = clip_plans(prepared, (row.clip for row in rows))
    batches = in_batches(decoded(job, rows, plans), settings.batch)
    with (
        ShardWriter(job.items_dir(), settings.flush_megabytes, settings.flush_seconds) as writer,
        job.progress(len(rows), "latents", "clips") as bar,
    ):
        for done in map_over_devices(batches, encoders):
            for row, moments_CTHW in done:
                check_finite(row, moments_CTHW, settings.precision)
                LatentRow(moments_CTHW).add(writer, row.clip)
                bar.advance()


def accepted(clips: Mapping[str, ClipRow], prepared: ShardReader) -> list[str]:
    """The ids of clips that preprocess did not reject, in order."""
    rejected = {clip for clip, row in prepared_rows(prepared, clips) if isinstance(row, Rejected)}
    return [clip for clip in clips if clip not in rejected]


def check_finite(row: ClipRow, moments: Tensor, precision: str) -> None:
    """Raise UserError if ``moments`` contain NaN or infinity, so that they are not stored."""
    if not torch.isfinite(moments).all():
        raise UserError(
            f"{row.path}: VAE output contains NaN or infinity in {precision}; set args.encoder_precision to bf16 or fp32"
        )


def decoded(
    job: Job[EncodingInput], rows: list[ClipRow], plans: Mapping[str, ClipPlan]
) -> Iterator[tuple[ClipRow, Tensor]]:
    """Each clip and its pixels, uint8 (F, 3, H, W), decoded ahead. ``plans``: rows of preprocess by clip id. Raises
    UserError for a clip that cannot be read."""
    settings = job.input

    def load(row: ClipRow, decoder: Decoder) -> Tensor:
        with proven([source_of(row)]):
            return load_clip(row.path, plans[row.clip], settings.video_size, decoder)

    for row, result in decode_ahead(rows, load, settings.workers):
        if isinstance(result, VideoError | OSError):
            raise unreachable(row, result)
        if isinstance(result, Exception):
            raise result
        yield row, result


def _encoder(settings: LatentsInput, device: torch.device) -> Callable[[Batch], list[tuple[ClipRow, Tensor]]]:
    """A copy of the VAE on ``device``, as a function from pixels to moments on the CPU."""
    dtype = dtype_of(settings.precision)
    vae = build(settings.vae).to(device, dtype)

    @torch.no_grad()
    def encode(batch: Batch) -> list[tuple[ClipRow, Tensor]]:
        # Always a full batch: convolutions of one and of two clips differ in the last bits, and a clip's moments must
        # not depend on how many rows are missing.
        pixels = [pixels_FCHW for _, pixels_FCHW in batch]
        pixels_BFCHW = torch.stack(pixels + pixels[:1] * (settings.batch - len(batch))).to(device)
        video_BCTHW = to_unit_range(pixels_BFCHW).transpose(1, 2).to(dtype)
        moments_BCTHW = vae.encode(video_BCTHW).cpu()
        return [(row, moments_CTHW) for (row, _), moments_CTHW in zip(batch, moments_BCTHW, strict=False)]

    return encode
