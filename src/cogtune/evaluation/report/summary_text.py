"""The sentences of a report. Pure functions of metrics.json and timings.json."""

from dataclasses import dataclass
from typing import Any

from cogtune.evaluation.metrics import METRICS, PSNR, RETRIEVAL, Metric

VARIANTS = ("tuned", "base", "guided", "shuffled", "null")
"""In the order of the table."""

LABELS = {
    "tuned": "After training",
    "base": "Before training",
    "guided": "Guided",
    "shuffled": "Another clip's caption",
    "null": "No caption",
}
_MEANING = {
    "tuned": "Each sample starts from pure noise and sees the caption only.",
    "base": "The same noise and captions, with the weights that training started from: "
    "the difference is what training did.",
    "guided": "With the sampler's classifier-free guidance: often crisper, seldom closer to the clip pixel by pixel.",
    "shuffled": "Each sample sees the next clip's caption and is still compared with its own clip. "
    "A low figure means that the caption decides what appears, not the noise.",
    "null": "The model is given no caption. A high figure would mean that it does not need one.",
}


@dataclass(frozen=True)
class VariantRow:
    """One row of the table of controls. ``hits`` of ``count`` samples are nearest to their own clip. ``values``: in the
    order of METRICS; None if not measured."""

    variant: str
    label: str
    meaning: str
    hits: int
    count: int
    values: list[tuple[Metric, float | None]]


def rows(metrics: dict[str, Any]) -> list[VariantRow]:
    """The table of controls: one row per measured variant."""
    table = []
    for variant in VARIANTS:
        accuracy = metrics.get(RETRIEVAL.key(variant))
        if accuracy is None:
            continue
        count = metrics["samples.count"]
        values = [(metric, metrics.get(metric.key(variant))) for metric in METRICS]
        table.append(VariantRow(variant, LABELS[variant], _MEANING[variant], round(accuracy * count), count, values))
    return table


def headline(metrics: dict[str, Any], trained: bool = True) -> str:
    """The heading of the report: its main result. ``trained``: false for ``args.mode: inference``."""
    if not trained:
        return "Samples of your own prompts, with the loaded weights."
    by_variant = {row.variant: row for row in rows(metrics)}
    tuned, base = by_variant.get("tuned"), by_variant.get("base")
    if tuned is None:
        return "Samples of your own prompts, after training."
    verb = "is nearest to its" if tuned.count == 1 else "are nearest to their"
    text = f"After training, {tuned.hits} of {tuned.count} samples {verb} own clip"
    return f"{text}; before: {base.hits} of {base.count}." if base else f"{text}."


def summary(metrics: dict[str, Any]) -> list[str]:
    """The sentences below the headline, each about one figure and its reference."""
    sentences = []
    psnr, before = metrics.get(PSNR.key()), metrics.get(PSNR.key("base"))
    if psnr is not None:
        gain = "" if before is None else f", {psnr - before:+.1f} dB vs. the model before training ({before:.1f} dB)"
        sentences.append(f"Mean PSNR of a sample to its own clip: {psnr:.1f} dB{gain}.")
    ceiling, worst = metrics.get("vae.psnr_db"), metrics.get("vae.psnr_db_min")
    if ceiling is not None and worst is not None:
        sentences.append(
            f"Encoding and decoding the clips with the VAE alone reaches {ceiling:.1f} dB "
            f"(worst clip {worst:.1f} dB): samples cannot be expected to exceed that."
        )
    clips = metrics.get("data.clips_train")
    if psnr is not None and clips:
        sentences.append(f"The nearest of all {clips} training clips is by pixel error, so chance is 1 in {clips}.")
    return sentences


def training(metrics: dict[str, Any], timings: dict[str, Any]) -> str:
    """A sentence about loss and speed."""
    first, last = metrics.get("train.loss_first"), metrics.get("train.loss_last")
    text = "" if first is None or last is None else f"The loss went from {first:.3f} to {last:.3f}"
    if speed := timings.get("train.steps_per_second"):
        text += f"{' at ' if text else 'Training ran at '}{speed:.2f} steps a second"
    if (wait := timings.get("train.data_wait_fraction")) is not None and text:
        text += f"; {100 * wait:.1f} % of the time was spent waiting for data"
    return f"{text}." if text else ""
