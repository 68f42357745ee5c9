"""Plots as SVG text with the page's CSS colours, so that they follow the dark or light colour scheme."""

import functools
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from cogtune.evaluation.report.report_data import LossPoint, ValidationCurve

# Matplotlib needs literal colours; each of these is a placeholder that is replaced by a CSS variable of report.css.
_INK, _FAINT, _ACCENT, _SECOND = "#010203", "#010204", "#010205", "#010206"
_VARIABLES = {_INK: "var(--ink)", _FAINT: "var(--line)", _ACCENT: "var(--accent)", _SECOND: "var(--second)"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cogtune",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
_MAX_POINTS = 600
NARROW = 3.3
"""Width in inches of the chart for a phone. At a page width of 360 px it is drawn 286 px wide, so 10 pt become 12 px."""
_NARROW_POINTS = 240


def smoothed(values: Sequence[float], span: int) -> list[float]:
    """Mean of the ``span`` values around each value.

    At the start, where a curve falls steeply, the window shrinks symmetrically. At the end only its right half shrinks,
    so that the last point is a mean too.
    """
    sums, means = [0.0, *accumulate(values)], []
    for i in range(len(values)):
        reach = min(span // 2, i)
        first, end = i - reach, min(i + reach + 1, len(values))
        means.append((sums[end] - sums[first]) / (end - first))
    return means


def mean_span(count: int) -> int:
    """How many of ``count`` losses the thick line of a chart averages."""
    return max(1, min(count, max(2, count // 20)))


def window_means(values: Sequence[float], span: int) -> list[float]:
    """Mean of every ``span`` adjacent values: len(values) - span + 1 of them, so each is a mean of the same number."""
    sums = [0.0, *accumulate(values)]
    return [(sums[first + span] - sums[first]) / span for first in range(len(values) - span + 1)]


def subsampled(rows: Sequence[Any], max_rows: int = _MAX_POINTS) -> list[Any]:
    """At most ``max_rows`` evenly spaced rows, including the first and the last, to keep plots small."""
    if len(rows) <= max_rows:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (max_rows - 1))] for i in range(max_rows)]


def styled(draw: Callable[..., str]) -> Callable[..., str]:
    """Run ``draw`` with the page's style, without changing matplotlib's global settings."""

    @functools.wraps(draw)
    def wrapped(*args: Any, **options: Any) -> str:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **options)

    return wrapped


@dataclass(frozen=True)
class Chart:
    """One chart drawn twice, as SVG markup: for a window, and for a phone. The page's CSS shows the one that fits."""

    wide: Any
    narrow: Any


def both(draw: Callable[[bool], str]) -> Chart | None:
    """The chart that ``draw`` makes for a narrow page (true) and for a wide one; None if it makes none."""
    wide = draw(False)
    return Chart(markup(wide), markup(draw(True))) if wide else None


@styled
def loss_plot(training: Sequence[LossPoint], validation: Sequence[LossPoint], narrow: bool = False) -> str:
    """Loss over steps: a thin line of single steps, a thick line of their mean, validation as points, and the learning
    rate below. "" without training steps."""
    if not training:
        return ""
    steps, losses = [point.step for point in training], [point.loss for point in training]
    span, limit = mean_span(len(losses)), _NARROW_POINTS if narrow else _MAX_POINTS
    means = list(zip(steps[span // 2 :], window_means(losses, span), strict=False))
    single, mean = subsampled(list(zip(steps, losses, strict=True)), limit), subsampled(means, limit)
    figure, (top, bottom) = new_figure(*((NARROW, 4.2) if narrow else (8.6, 4.4)), rows=2, heights=(4, 1))
    top.plot(*zip(*single, strict=True), color=_SECOND, linewidth=0.7, alpha=0.7, label="one step")
    top.plot(*zip(*mean, strict=True), color=_ACCENT, linewidth=2, label=f"mean of {span} steps")
    if validation:
        points = [point.step for point in validation], [point.loss for point in validation]
        top.plot(*points, "o", color=_INK, markersize=4, label="validation")
    if min(losses) > 0 and max(losses) > 8 * min(losses):
        log_axis(top)
    top.set_ylabel("loss")
    top.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=1 if narrow else 3, borderpad=0)
    rates = subsampled([(point.step, point.lr) for point in training if point.lr is not None], limit)
    bottom.plot([rate[0] for rate in rates], [rate[1] for rate in rates], color=_INK, linewidth=1.2)
    bottom.set_ylabel("lr" if narrow else "learning rate")
    bottom.set_ylim(bottom=0)
    bottom.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    bottom.set_xlabel("optimizer step")
    few_ticks(bottom, narrow)
    return to_svg(figure, "Loss and learning rate over training steps")


@styled
def validation_plot(curves: Sequence[ValidationCurve], narrow: bool = False) -> str:
    """Validation losses over steps: a line per set and kind of weights, dashed for the average, and a thin one for training
    clips. "" for less than two validations."""
    if max((len(curve.points) for curve in curves), default=0) < 2:
        return ""
    figure, (axes,) = new_figure(*((NARROW, 3.4) if narrow else (8.6, 3.0)))
    markers = dict(
        zip(dict.fromkeys(curve.clips for curve in curves if not curve.trained_on), "os^Dv<>p", strict=False)
    )
    for curve in curves:
        points = [point.step for point in curve.points], [point.loss for point in curve.points]
        color = _SECOND if curve.trained_on else _ACCENT
        style, marker = "--" if curve.weights == "average" else "-", markers.get(curve.clips, ".")
        axes.plot(*points, style, marker=marker, markersize=4, color=color, linewidth=1.2, label=curve.label)
    axes.set_ylabel("loss")
    axes.set_xlabel("optimizer step")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=1 if narrow else 3, borderpad=0)
    few_ticks(axes, narrow)
    return to_svg(figure, "Validation losses over training steps")


@styled
def seconds_plot(seconds: dict[str, float], narrow: bool = False) -> str:
    """Horizontal bars of the time of each stage. "" for less than two stages."""
    if len(seconds) < 2:
        return ""
    figure, (axes,) = new_figure(NARROW if narrow else 8.6, 0.6 + 0.3 * len(seconds))
    names, values = list(seconds), list(seconds.values())
    bars = axes.barh(names, values, color=_ACCENT, height=0.62)
    axes.bar_label(bars, [duration(value) for value in values], padding=5, color=_INK)
    axes.invert_yaxis()
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.set_xlim(0, (1.45 if narrow else 1.15) * max(values, default=1) or 1)
    return to_svg(figure, "Seconds spent in each stage")


def few_ticks(axes: Any, narrow: bool) -> None:
    """On a narrow chart, labels of the x axis at most at five places."""
    if narrow:
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def markup(text: str) -> Any:
    """Mark trusted text as markup, which is not escaped."""
    from markupsafe import Markup

    return Markup(text)


def duration(seconds: float) -> str:
    """ "0.4 s", "12 s", "3 min 20 s", "2 h 05 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"


def new_figure(
    width: float,
    height: float,
    rows: int = 1,
    heights: tuple[int, ...] = (1,),
    columns: int = 1,
    shared: bool = True,
) -> tuple[Any, Any]:
    """A figure of ``width`` x ``height`` inches and its axes, row by row. ``shared``: rows have one x axis."""
    from matplotlib.figure import Figure  # pyplot would search for a backend

    figure = Figure(figsize=(width, height), layout="constrained")
    sharex = shared and rows > 1
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex, gridspec_kw={"height_ratios": heights})
    return figure, list(axes.flat)


def log_axis(axes: Any) -> None:
    """A logarithmic y axis with plain numbers, also if it spans less than a factor of 10."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())


def to_svg(figure: Any, title: str) -> str:
    """The figure as an <svg> element for an HTML page, without XML prologue, metadata and external resources."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, variable)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # the names repeat in each chart of a page; nothing refers to groups
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # would apply to the whole page
    text = re.sub(r'\s(width|height)="[^"]*pt"', "", text)
    text = text.replace("font-family: 'DejaVu Sans', sans-serif", "font-family: inherit")
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{title}" ', text, count=1)
