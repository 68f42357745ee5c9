"""From pixels to metrics.json: what is measured of each clip, and how it is summed up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cogtune.data.rows import EvaluationRow
from cogtune.evaluation import metrics
from cogtune.work.variants import TUNED

_DIGITS = {"retrieval_accuracy": 4, "psnr_db": 3, "ssim": 4, "loss": 5}


@dataclass(frozen=True)
class Sample:
    """One sample as the sample stage named it; ``clip`` is None for a prompt of the user's own."""

    item: str
    prompt: str
    variant: str
    caption: str
    clip: str | None = None


def measure(
    pixels_FCHW: Tensor, reconstruction_FCHW: Tensor, samples: Mapping[str, Tensor], own: Sequence[str]
) -> EvaluationRow:
    """Compare one clip with its reconstruction and with ``samples`` (empty for a clip that was not trained on)."""
    distances = metrics.squared_distances(list(samples.values()), pixels_FCHW).tolist()
    return EvaluationRow(
        metrics.psnr_db(reconstruction_FCHW, pixels_FCHW),
        dict(zip(samples, distances, strict=True)),
        {
            item: {
                "psnr_db": metrics.psnr_db(samples[item], pixels_FCHW),
                "ssim": metrics.ssim(samples[item], pixels_FCHW),
            }
            for item in own
        },
    )


def per_sample(samples: Sequence[Sample], measured: Mapping[str, EvaluationRow]) -> list[dict[str, Any]]:
    """One row for each sample; those whose clip was measured say how near it is and which training clip is nearest."""
    rows = []
    for sample in samples:
        row: dict[str, Any] = vars(sample).copy()
        if sample.clip is not None and sample.clip in measured:
            distances = {clip: found.distances[sample.item] for clip, found in measured.items() if found.distances}
            nearest = metrics.nearest(distances, own=sample.clip)
            own = measured[sample.clip].own[sample.item]
            row |= {name: round(value, _DIGITS[name]) for name, value in own.items()}
            row |= {"nearest": nearest, "hit": nearest == sample.clip}
        rows.append(row)
    return rows


def flat_metrics(
    rows: Sequence[Mapping[str, Any]], measured: Mapping[str, EvaluationRow], splits: Mapping[str, str]
) -> dict[str, float | int]:
    """The keys of metrics.json that come from pixels, sorted. A key that nothing was measured for is absent.

    ``rows``: from `per_sample`. ``splits``: clip -> "train" or "valid", for every clip of the experiment.
    """
    found: dict[str, float | int] = {"samples.count": len({row["prompt"] for row in rows})}
    for split in ("train", "valid"):
        found[f"data.clips_{split}"] = sum(1 for where in splits.values() if where == split)
    trained = [measured[clip].vae_psnr_db for clip, split in splits.items() if split == "train"]
    heldout = [measured[clip].vae_psnr_db for clip, split in splits.items() if split == "valid"]
    if trained:
        found["vae.psnr_db"] = round(metrics.mean(trained), _DIGITS["psnr_db"])
        found["vae.psnr_db_min"] = round(min(trained), _DIGITS["psnr_db"])
    if heldout:
        found["vae.psnr_db_heldout"] = round(metrics.mean(heldout), _DIGITS["psnr_db"])
    compared = [row for row in rows if "hit" in row]
    for variant in sorted({row["variant"] for row in compared}):
        suffix = "" if variant == TUNED else f"_{variant}"
        mine = [row for row in compared if row["variant"] == variant]
        for name, values in (
            ("retrieval_accuracy", [float(row["hit"]) for row in mine]),
            ("psnr_db", [row["psnr_db"] for row in mine]),
            ("ssim", [row["ssim"] for row in mine]),
        ):
            found[f"samples.{name}{suffix}"] = round(metrics.mean(values), _DIGITS[name])
    return dict(sorted(found.items()))
