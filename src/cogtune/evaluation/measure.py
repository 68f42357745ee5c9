"""Computes metrics.json from pixels: measures each clip, and summarises the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cogtune.data.rows import EvaluationRow
from cogtune.evaluation.metrics import METRICS, PSNR, mean, nearest, psnr_db, squared_distances
from cogtune.evaluation.sample_figures import Sample, SampleFigures

if TYPE_CHECKING:
    from torch import Tensor


def measure(
    pixels_FCHW: Tensor, reconstruction_FCHW: Tensor, samples: Mapping[str, Tensor], own: Sequence[str]
) -> EvaluationRow:
    """Compare one clip with its reconstruction and with ``samples`` (empty for a validation clip). ``own``: ids of the
    samples of this clip's captions. All videos are uint8 (F, 3, H, W)."""
    distances = squared_distances(list(samples.values()), pixels_FCHW).tolist()
    pairwise = {metric.name: metric.compute for metric in METRICS if metric.compute is not None}
    return EvaluationRow(
        psnr_db(reconstruction_FCHW, pixels_FCHW),
        dict(zip(samples, distances, strict=True)),
        {item: {name: compute(samples[item], pixels_FCHW) for name, compute in pairwise.items()} for item in own},
    )


def per_sample(samples: Sequence[Sample], measured: Mapping[str, EvaluationRow]) -> list[SampleFigures]:
    """The figures of each sample. If its clip was measured, they include the metrics and the nearest training clip."""
    digits = {metric.name: metric.digits for metric in METRICS}
    figures = []
    for sample in samples:
        if sample.clip is None or sample.clip not in measured:
            figures.append(SampleFigures(sample))
            continue
        distances = {clip: row.distances[sample.item] for clip, row in measured.items() if row.distances}
        own = measured[sample.clip].own[sample.item]
        values = {name: round(value, digits[name]) for name, value in own.items()}
        figures.append(SampleFigures(sample, nearest(distances, own=sample.clip), values))
    return figures


def flat_metrics(
    figures: Sequence[SampleFigures], measured: Mapping[str, EvaluationRow], splits: Mapping[str, str]
) -> dict[str, float | int]:
    """The entries of metrics.json that are computed from pixels, sorted. Entries without measurements are absent.

    ``figures``: from `per_sample`. ``splits``: clip -> "train" or "valid", for every clip of the experiment.
    """
    values: dict[str, float | int] = {"samples.count": len({row.sample.prompt for row in figures})}
    for split in ("train", "valid"):
        values[f"data.clips_{split}"] = sum(1 for clip_split in splits.values() if clip_split == split)
    trained = [measured[clip].vae_psnr_db for clip, split in splits.items() if split == "train"]
    held_out = [measured[clip].vae_psnr_db for clip, split in splits.items() if split == "valid"]
    if trained:
        values["vae.psnr_db"] = round(mean(trained), PSNR.digits)
        values["vae.psnr_db_min"] = round(min(trained), PSNR.digits)
    if held_out:
        values["vae.psnr_db_heldout"] = round(mean(held_out), PSNR.digits)
    compared = [row for row in figures if row.hit is not None]
    for variant in sorted({row.sample.variant for row in compared}):
        own = [row for row in compared if row.sample.variant == variant]
        for metric in METRICS:
            samples = [float(bool(row.hit)) if metric.compute is None else row.values[metric.name] for row in own]
            values[metric.key(variant)] = round(mean(samples), metric.digits)
    return dict(sorted(values.items()))
