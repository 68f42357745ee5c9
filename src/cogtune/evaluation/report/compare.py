"""The report of a sweep: a table and a plot of its members, and their samples of the same captions side by side."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cogtune.evaluation.metrics import METRICS, PSNR
from cogtune.evaluation.report import plots
from cogtune.evaluation.report.gather import CLIP, SAMPLED_LABELS, TRAINED_LABELS
from cogtune.evaluation.report.report_data import LossPoint, ReportRow, ReportVideo
from cogtune.evaluation.report.sweep_plot import shades, sweep_plot

_CAPTIONS = 3
_SAMPLES = (TRAINED_LABELS["tuned"], SAMPLED_LABELS["tuned"])
"""Labels of the compared videos, of members with and without training."""
_BEST: dict[bool, Any] = {True: max, False: min}
_RANKED_BY = PSNR
"""The metric by which the headline selects the best member, and the first column."""
_COLUMNS = (
    *(
        (
            metric.key(),
            f"{metric.title}, {metric.unit}" if metric.unit else metric.title,
            _BEST[metric.higher_is_better],
        )
        for metric in sorted(METRICS, key=lambda metric: metric is not _RANKED_BY)
    ),
    ("train.loss_last", "loss, last", min),
    ("validation.loss_last", "held-out loss, last", min),
    ("train.steps_per_second", "steps per second", None),
    ("seconds.train", "seconds of training", None),
)
"""(figure, heading, function that selects the best value or None)."""


@dataclass(frozen=True)
class Member:
    """One point of the grid. ``point``: {swept key: value}; ``training``, ``validation``: their loss curves."""

    name: str
    point: dict[str, Any]
    metrics: dict[str, Any]
    timings: dict[str, Any]
    training: list[LossPoint]
    validation: list[LossPoint]
    strips: list[ReportRow]

    @property
    def figures(self) -> dict[str, Any]:
        """The entries of metrics.json and timings.json, and the last validation loss."""
        last = {"validation.loss_last": self.validation[-1].loss} if self.validation else {}
        return self.metrics | self.timings | last


def render(name: str, members: Sequence[Member]) -> str:
    """The page as HTML text; all strings are escaped."""
    from cogtune.evaluation.report.page import embedded, environment

    keys = list(members[0].point)
    colours = shades(len(members))
    columns = [(heading, _column(members, figure, best)) for figure, heading, best in _columns(members)]
    template = environment().get_template("sweep.html.j2")
    return template.render(
        name=name,
        keys=keys,
        headline=_headline(members),
        rows=list(zip(members, colours, strict=True)),
        columns=columns,
        plot=plots.both(partial(sweep_plot, members, keys[0])),
        captions=[(caption, [embedded(video) for video in videos]) for caption, videos in _captions(members)],
    )


def as_csv(members: Sequence[Member]) -> str:
    """One line per member: its name, the swept keys, then all figures of any member."""
    figures = sorted({name for member in members for name in member.figures})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["experiment", *members[0].point, *figures])
    for member in members:
        writer.writerow([member.name, *member.point.values(), *(member.figures.get(name) for name in figures)])
    return buffer.getvalue()


def _columns(members: Sequence[Member]) -> list[tuple[str, str, Any]]:
    return [column for column in _COLUMNS if any(column[0] in member.figures for member in members)]


def _column(members: Sequence[Member], figure: str, best: Any) -> list[tuple[Any, bool]]:
    """(value or None, whether it is the best) of each member."""
    values = [member.figures.get(figure) for member in members]
    known = [value for value in values if value is not None]
    top = best(known) if best and len(set(known)) > 1 else None
    return [(value, value is not None and value == top) for value in values]


def _headline(members: Sequence[Member]) -> str:
    measured = [member for member in members if _RANKED_BY.key() in member.metrics]
    if not measured:
        return f"{len(members)} runs compared."
    closest = _BEST[_RANKED_BY.higher_is_better]
    best = closest(measured, key=lambda member: member.metrics[_RANKED_BY.key()])
    point = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in best.point.items())
    return f"Of {len(members)} runs, {point} comes closest to the clips: {best.metrics[_RANKED_BY.key()]:.1f} dB."


def _captions(members: Sequence[Member]) -> list[tuple[str, list[ReportVideo]]]:
    """(caption, the clip and a video of every member, which is its label) for the first captions shared by all members."""
    by_name = [{strip.name: strip for strip in member.strips} for member in members]
    shared = [name for name in by_name[0] if all(name in strips for strips in by_name)]
    captions = []
    for name in shared[:_CAPTIONS]:
        videos = [video for video in by_name[0][name].videos if video.label == CLIP]
        for member, strips in zip(members, by_name, strict=True):
            samples = [video for video in strips[name].videos if video.label in _SAMPLES]
            videos += [replace(video, label=member.name) for video in samples]
        captions.append((by_name[0][name].caption, videos))
    return captions
