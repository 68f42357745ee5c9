"""Stage `evaluate`: compares samples and reconstructions with the clips, and writes metrics.json."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cogtune.config.build import build
from cogtune.data.clips import load_clip
from cogtune.data.decoder import Decoder
from cogtune.data.listing import ClipRow
from cogtune.data.pipeline import in_batches
from cogtune.data.rows import ClipPlan, EvaluationRow, LatentRow, SampleRow, clip_plan
from cogtune.data.store import ShardReader, ShardWriter
from cogtune.data.video import VideoError
from cogtune.errors import UserError
from cogtune.evaluation.measure import flat_metrics, measure, per_sample
from cogtune.evaluation.metrics import PSNR, RETRIEVAL
from cogtune.evaluation.report.publish import to_json
from cogtune.evaluation.sample_figures import METRICS_FILE, PER_SAMPLE, Sample
from cogtune.runtime.atomic import write_changed
from cogtune.runtime.devices import device_for, dtype_of, prepare_torch
from cogtune.runtime.failures import machine_error_message
from cogtune.runtime.locks import hold_lock
from cogtune.runtime.sums import write_sums
from cogtune.sampling.generate import decode
from cogtune.sampling.prompts import ID_DIGITS
from cogtune.sampling.video import write_mp4
from cogtune.stages.job import Job
from cogtune.stages.latents import accepted
from cogtune.stages.make_rows import make_rows
from cogtune.stages.preprocess import source_of
from cogtune.stages.run_counts import RunCounts
from cogtune.stages.sample import sample_ids
from cogtune.work.batches import EVALUATE_BATCH
from cogtune.work.content_hashes import proven
from cogtune.work.inputs import EvaluateInput, SampleInput
from cogtune.work.results import read_summary

CLIPS = "clips"
_LOSS_DIGITS = 5


@dataclass(frozen=True, kw_only=True)
class EvaluateCounts(RunCounts):
    """``main_metrics``: the most important figures of metrics.json, under its keys."""

    main_metrics: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        content = super().to_json()
        return content | content.pop("main_metrics")


def run(job: Job[EvaluateInput]) -> RunCounts:
    """Measure each clip, store the results as rows, then summarise them.

    Writes metrics.json and per_sample.json (equal input gives equal bytes), and an mp4 file of each clip with samples.
    Raises UserError for a clip that cannot be read.
    """
    prepare_torch(job.ranks * job.input.threads)
    folder = job.job_dir()
    clips = _clips(job)
    samples = read_samples(job.rows("sample"), sample_ids(job.upstream_job("sample", SampleInput)))
    rows = list(clips.values())
    units = list(in_batches(list(clips), EVALUATE_BATCH))
    counts = make_rows(job, units, lambda missing: _measure(job, rows, set(missing), samples))
    if job.part:
        return counts
    measured = dict(EvaluationRow.read_all(job.rows(), clips))
    figures = per_sample(samples, measured)
    metrics = flat_metrics(figures, measured, {clip: row.split for clip, row in clips.items()}) | _losses(job)
    write_changed(folder / PER_SAMPLE, to_json([one.to_json() for one in figures]))
    write_changed(folder / METRICS_FILE, to_json(metrics))
    write_sums(folder, [folder / PER_SAMPLE, folder / METRICS_FILE])
    main = {metric.key(): metrics[metric.key()] for metric in (RETRIEVAL, PSNR) if metric.key() in metrics}
    return EvaluateCounts(made=counts.made, reused=counts.reused, main_metrics=main)


def _clips(job: Job[EvaluateInput]) -> dict[str, ClipRow]:
    """Accepted clips by id; a clip in both splits counts as a training clip. Raises UserError if one is not encoded."""
    train_last = {row.clip: row for row in sorted(job.manifest(), key=lambda row: row.split == "train")}
    usable = accepted(train_last, job.rows("preprocess"))
    job.rows("latents").require(usable)
    return {clip: train_last[clip] for clip in sorted(usable)}


def read_samples(reader: ShardReader, ids: Iterable[str]) -> list[Sample]:
    """The samples with these ``ids``, sorted by id."""
    rows = dict(SampleRow.read_all(reader, ids))
    return [Sample(item, row.prompt, row.variant, row.caption, row.clip) for item, row in sorted(rows.items())]


def _measure(job: Job[EvaluateInput], rows: list[ClipRow], missing: set[str], samples: list[Sample]) -> None:
    """Compare each missing clip with its reconstruction and, if it is a training clip, with all samples.

    Batches are cut from all ``rows``, so a resumed run uses the same batch composition and gives the same bytes.
    """
    settings, folder = job.input, job.job_dir()
    reader = job.rows("sample")
    videos = {sample.item: SampleRow.video(reader, sample.item) for sample in samples if sample.clip is not None}
    sampled = {sample.clip for sample in samples}
    writer = ShardWriter(folder, settings.flush_megabytes, settings.flush_seconds)
    with writer, job.progress(len(missing), "evaluate", "clips") as bar:
        for row, pixels_FCHW, reconstruction_FCHW in _reconstructions(job, rows, missing):
            trained = row.split == "train"
            clip_samples = [sample.item for sample in samples if sample.clip == row.clip]
            evaluated = measure(
                pixels_FCHW, reconstruction_FCHW, videos if trained else {}, clip_samples if trained else []
            )
            if row.clip in sampled:
                view = folder / CLIPS / f"{row.clip[:ID_DIGITS]}.mp4"
                write_mp4(view, pixels_FCHW.permute(0, 2, 3, 1).numpy(), settings.fps)
                with hold_lock(job.lock_path.with_suffix(".sums.lock")) if job.part else nullcontext():
                    write_sums(folder, [view])  # before its row, which marks the clip as done
            evaluated.add(writer, row.clip)
            bar.advance(1)


def _reconstructions(
    job: Job[EvaluateInput], rows: list[ClipRow], missing: set[str]
) -> Iterator[tuple[ClipRow, Tensor, Tensor]]:
    """(clip, its pixels, the VAE's decoding of its cached posterior mean), both uint8 (F, 3, H, W)."""
    prepared, latents = job.rows("preprocess"), job.rows("latents")
    device, dtype = device_for(job.one_device or 0), dtype_of(job.input.precision)
    with job.proven("model.first_stage_config"):
        vae = build(job.input.vae).to(device, dtype)
    size = job.input.video_size
    with Decoder() as decoder:
        for start in range(0, len(rows), EVALUATE_BATCH):
            batch = rows[start : start + EVALUATE_BATCH]
            if not missing & {row.clip for row in batch}:
                continue
            moments_BCTHW = torch.stack([LatentRow.read(latents, row.clip).moments_CTHW for row in batch])
            mean_BCTHW = vae.regularizer.mode(moments_BCTHW.to(device, dtype))
            for row, reconstruction_FCHW in zip(batch, decode(vae, mean_BCTHW), strict=True):
                if row.clip in missing:
                    yield row, _pixels(row, clip_plan(prepared, row.clip), size, decoder), reconstruction_FCHW


def _pixels(row: ClipRow, plan: ClipPlan, size: list[int], decoder: Decoder) -> Tensor:
    try:
        with proven([source_of(row)]):
            return load_clip(row.path, plan, size, decoder)
    except (VideoError, OSError) as error:
        unreadable = f"{row.path}: was encoded, but cannot be read any more: {error}"
        raise UserError(machine_error_message(error, row.path) or unreadable) from None


def _losses(job: Job[EvaluateInput]) -> dict[str, float]:
    """First and last training loss, each a mean over a few steps, from training's summary."""
    summary = read_summary(job.upstream_job("sample").upstream_job("export").job_dir("train"))
    losses = {"train.loss_first": summary.loss_first, "train.loss_last": summary.loss_last}
    return {name: round(loss, _LOSS_DIGITS) for name, loss in losses.items()}
