"""The sentences of a report. Pure functions of its data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cogtune.evaluation.metrics import METRICS, PSNR, RETRIEVAL, Metric
from cogtune.evaluation.report.plots import mean_span, window_means
from cogtune.evaluation.report.report_data import Folders, LossPoint

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
        sentences.append(
            f"A sample counts as nearest to its own clip if none of the {clips} training clips differs less from it in its "
            f"pixels (by chance: 1 in {clips}). This checks whether the model reproduces its training clips from their "
            f"captions, that is, memorisation; it does not measure quality, and a LoRA for a style or a subject does not need it."
        )
    return sentences


def training(training: Sequence[LossPoint], timings: dict[str, Any]) -> str:
    """A sentence about loss, as the thick line of the chart has it, and speed."""
    text = ""
    if training:
        span = mean_span(len(training))
        line = window_means([point.loss for point in training], span)
        steps = f"mean of {span} steps" if span > 1 else "single steps"
        text = f"The loss ({steps}) went from {line[0]:.3f} to {line[-1]:.3f}"
    if speed := timings.get("train.steps_per_second"):
        text += f"{' at ' if text else 'Training ran at '}{speed:.2f} steps a second"
    if (wait := timings.get("train.data_wait_fraction")) is not None and text:
        text += f"; {100 * wait:.1f} % of the time was spent waiting for data"
    return f"{text}." if text else ""


RISE = 0.02
"""A validation loss that ends this share above its minimum has risen; less may be noise."""


def overfitting(training: Sequence[LossPoint], validation: Sequence[LossPoint]) -> str:
    """Says that the validation loss rose while the training loss fell, with the step of its minimum; "" if it did not."""
    if len(validation) < 3 or not training:
        return ""
    best, last = min(validation, key=lambda point: point.loss), validation[-1]
    before, after = _mean_around(training, best.step), _mean_around(training, last.step)
    if last.loss <= best.loss * (1 + RISE) or after >= before:
        return ""
    return (
        f"The validation loss was lowest at step {best.step:,} ({best.loss:.3f}) and rose to {last.loss:.3f} by step "
        f"{last.step:,}, while the training loss fell from {before:.3f} to {after:.3f}: from step {best.step:,} on, the model "
        f"learned its training clips by heart. Fewer steps, more clips or a lower learning rate prevent that."
    )


def _mean_around(training: Sequence[LossPoint], step: int) -> float:
    """The mean loss of the steps around ``step``."""
    reach = mean_span(len(training))
    near = [point.loss for point in training if abs(point.step - step) <= reach] or [training[-1].loss]
    return sum(near) / len(near)


def data_sources(folders: Sequence[Folders]) -> list[str]:
    """A sentence per split about where its clips come from."""
    sentences = []
    for one in folders:
        name = "Training" if one.split == "train" else "Validation"
        text = f"{name} clips: {', '.join(one.folders)} ({one.key}, set by {one.origin})."
        if one.inherited:
            text += f" {one.key} was not set together with args.train_data: check that these clips belong to your data."
        sentences.append(text)
    return sentences
