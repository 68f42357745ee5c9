"""The jobs of `cogtune sample EXPERIMENT|WEIGHTS`, which the stage `sample` runs: one row for each prompt, seed and strength.

A row depends on nothing but its own prompt, so they are sampled one by one: in a batch their last bits would depend on
which others are missing.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from cogtune.data.images import load_image
from cogtune.data.rows import SampleRow, TextRow
from cogtune.data.store import ShardWriter
from cogtune.errors import UserError
from cogtune.runtime.devices import prepare_torch
from cogtune.runtime.locks import hold_lock
from cogtune.sampling.generate import encode_image, samplers
from cogtune.sampling.prompts import own_prompt
from cogtune.stages import text
from cogtune.stages.job import Job
from cogtune.stages.make_rows import make_rows
from cogtune.stages.run_counts import RunCounts
from cogtune.stages.sample import write_images, write_views
from cogtune.stages.sampled_models import SampledModels
from cogtune.work.inputs import PromptedInput, TextInput
from cogtune.work.volatile import PromptRow

_NOISE = own_prompt("").id
"""Keys the noise, so that prompts and strengths differ in nothing else, and a video equals that of `load_result`."""


def make_videos(job: Job[PromptedInput]) -> RunCounts:
    """Make the rows of this run that the store lacks, and their mp4 files. A kill loses the video that is being made."""
    run = job.slice.volatile.prompts
    if run is None:
        raise UserError(f"{job.run_file}: no prompts for job {job.key}; run `cogtune sample` again")
    rows = {row.id: row for row in run.rows}
    prepare_torch(job.ranks * job.input.threads)
    counts = make_rows(job, [[name] for name in rows], lambda missing: _make(job, [rows[name] for name in missing]))
    write_views(job.job_dir(), set(rows), job.input.fps)
    if any(row.image for row in run.rows):
        write_images(job.job_dir(), set(rows))
    return counts


def _make(job: Job[PromptedInput], rows: Sequence[PromptRow]) -> None:
    settings, models = job.input, SampledModels(job)
    contexts = _contexts(job, rows)
    images = _images(job, rows)
    sampler = samplers(settings.sampler, settings.steps)[settings.guided]
    if not models.has_lora:
        rows = sorted(rows, key=lambda row: row.strength)  # each strength is another network to load
    writer = ShardWriter(job.job_dir(), settings.flush_megabytes, settings.flush_seconds)
    with writer, job.progress(sampler.params.num_steps * len(rows), "sample", "steps") as bar:
        for row in rows:
            pixels_CHW = None if row.image is None else images[row.image]
            latent_BCHW = None if pixels_CHW is None else encode_image(models.vae, pixels_CHW, row.seed, _NOISE)[None]
            (video_FCHW,) = replace(models.at_strength(row.strength), seed=row.seed).videos(
                [_NOISE],
                contexts[row.caption_id][None],
                sampler,
                latent_BCHW,
                on_step=lambda *_: bar.advance(),
                negative_BLD=None if row.negative_id is None else contexts[row.negative_id][None],
            )
            variant = f"strength-{row.strength:g}_seed-{row.seed}"
            SampleRow(row.id, variant, row.caption, None, row.caption_id).add(writer, row.id, video_FCHW, pixels_CHW)


def _contexts(job: Job[PromptedInput], rows: Sequence[PromptRow]) -> dict[str, Tensor]:
    """caption id -> (L, D). Rows of the text stage's folder; missing ones are added to it."""
    captions = {row.caption_id: row.caption for row in rows}
    captions |= {
        row.negative_id: row.negative for row in rows if row.negative_id is not None and row.negative is not None
    }
    encoder = job.upstream_job("text", TextInput)
    if not captions.keys() <= encoder.rows().ids():
        with hold_lock(encoder.lock_path):
            text.encode(encoder, captions)
    reader = encoder.rows()
    return {caption_id: TextRow.context(reader, caption_id).clone() for caption_id in captions}


def _images(job: Job[PromptedInput], rows: Sequence[PromptRow]) -> dict[str, Tensor]:
    """path -> uint8 (3, H, W)."""
    with job.proven("args.input_file"):
        paths = sorted({row.image for row in rows if row.image is not None})
        return {path: load_image(Path(path), job.input.video_size) for path in paths}
