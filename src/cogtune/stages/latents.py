"""Stage `latents`: decode, resize, encode with the 3D VAE, and keep the moments; decoding overlaps encoding."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from cogtune.config.build import build
from cogtune.data.clips import load_clip, to_unit_range
from cogtune.data.decoder import Decoder
from cogtune.data.listing import ClipRow
from cogtune.data.pipeline import decode_ahead, in_batches, on_all
from cogtune.data.rows import ClipPlan, LatentRow, Rejected, clip_plans, prepared_rows
from cogtune.data.store import ShardReader, ShardWriter
from cogtune.data.video import VideoError
from cogtune.errors import UserError
from cogtune.runtime.devices import devices, dtype_of, set_threads
from cogtune.stages.job import Job, missing
from cogtune.stages.preprocess import clips_of, source_of, unreachable
from cogtune.work.content_hashes import proven
from cogtune.work.inputs import EncodingInput, LatentsInput

Batch = list[tuple[ClipRow, Tensor]]


def run(job: Job[LatentsInput]) -> dict[str, Any]:
    """One row for every clip that preprocess accepted: ``moments`` (2C, T, h, w), mean and log-variance as the encoder
    gave them, so that training can draw a fresh latent each time. Clips that the store holds are not touched.
    """
    clips, prepared = clips_of(job.manifest()), job.rows("preprocess")
    usable = accepted(clips, prepared)
    lacking = missing(usable, job.rows().ids())
    if lacking:
        _encode(job, [clips[clip] for clip in lacking], prepared)
    return {
        "made": len(lacking),
        "reused": len(usable) - len(lacking),
        "skipped": len(clips) - len(usable),
    }


def _encode(job: Job[LatentsInput], rows: list[ClipRow], prepared: ShardReader) -> None:
    given = job.input
    # One process does what training spreads over its ranks, so it takes the threads of all of them.
    set_threads(job.ranks * given.threads)
    with job.proven("model.first_stage_config"):
        encoders = [_encoder(given, device) for device in devices()]
    plans = clip_plans(prepared, (row.clip for row in rows))
    batches = in_batches(decoded(job, rows, plans), given.batch)
    with (
        ShardWriter(job.items_dir(), given.flush_megabytes, given.flush_seconds) as writer,
        job.progress(len(rows), "latents", "clips") as bar,
    ):
        for done in on_all(batches, encoders):
            for row, moments_CTHW in done:
                check_finite(row, moments_CTHW, given.precision)
                LatentRow(moments_CTHW).add(writer, row.clip)
                bar.advance()


def accepted(clips: Mapping[str, ClipRow], prepared: ShardReader) -> list[str]:
    """The clips that preprocess did not reject, in their order."""
    rejected = {clip for clip, row in prepared_rows(prepared, clips) if isinstance(row, Rejected)}
    return [clip for clip in clips if clip not in rejected]


def check_finite(row: ClipRow, moments: Tensor, precision: str) -> None:
    """Raises UserError for moments that are not numbers: nothing is stored then."""
    if not torch.isfinite(moments).all():
        raise UserError(
            f"{row.path}: the VAE gives NaN or infinity in {precision}; set args.encoder_precision to bf16 or fp32"
        )


def decoded(
    job: Job[EncodingInput], rows: list[ClipRow], plans: Mapping[str, ClipPlan]
) -> Iterator[tuple[ClipRow, Tensor]]:
    """Each clip and its pixels, uint8 (F, 3, H, W), decoded ahead; ``plans``: rows of preprocess. Raises UserError."""
    given = job.input

    def load(row: ClipRow, decoder: Decoder) -> Tensor:
        with proven([source_of(row)]):
            return load_clip(row.path, plans[row.clip], given.video_size, decoder)

    for row, result in decode_ahead(rows, load, given.workers):
        if isinstance(result, VideoError | OSError):
            raise unreachable(row, result)
        if isinstance(result, Exception):
            raise result
        yield row, result


def _encoder(given: LatentsInput, device: torch.device) -> Callable[[Batch], list[tuple[ClipRow, Tensor]]]:
    """A copy of the VAE on ``device``, as a function from pixels to moments on the CPU."""
    dtype = dtype_of(given.precision)
    vae = build(given.vae).to(device, dtype)

    @torch.no_grad()
    def encode(batch: Batch) -> list[tuple[ClipRow, Tensor]]:
        # Always a full batch: convolutions of one clip and of two differ in the last bits, and a clip's moments must
        # not depend on how many others were lacking.
        pixels = [pixels_FCHW for _, pixels_FCHW in batch]
        pixels_BFCHW = torch.stack(pixels + pixels[:1] * (given.batch - len(batch))).to(device)
        video_BCTHW = to_unit_range(pixels_BFCHW).transpose(1, 2).to(dtype)
        moments_BCTHW = vae.encode(video_BCTHW).cpu()
        return [(row, moments_CTHW) for (row, _), moments_CTHW in zip(batch, moments_BCTHW, strict=False)]

    return encode
