"""The plot of a sweep: losses of all members, and PSNR over the swept value."""

from collections.abc import Sequence
from typing import Any

from cogtune.evaluation.metrics import PSNR
from cogtune.evaluation.report.plots import (
    NARROW,
    few_ticks,
    log_axis,
    new_figure,
    smoothed,
    styled,
    subsampled,
    to_svg,
)


def shades(count: int) -> list[str]:
    """``count`` distinguishable colours for light and dark pages."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["turbo"](0.08 + 0.84 * i / max(count - 1, 1))) for i in range(count)]


@styled
def sweep_plot(members: Sequence[Any], key: str, narrow: bool = False) -> str:
    """Left: the smoothed losses of all members, one colour each. Right (below, if ``narrow``): PSNR of the samples over the
    swept ``key``.

    ``members`` have ``point``, ``training`` and ``figures`` (`compare.Member`). "" if no member has training steps.
    """
    if not any(member.training for member in members):
        return ""
    size = {"width": NARROW, "height": 5.6, "rows": 2} if narrow else {"width": 10.5, "height": 3.8, "columns": 2}
    figure, (left, right) = new_figure(**size, heights=(1, 1) if narrow else (1,), shared=False)
    coloured = list(zip(members, shades(len(members)), strict=True))
    _losses(left, coloured)
    points = [
        (member.point[key], member.figures[PSNR.key()], colour)
        for member, colour in coloured
        if member.figures.get(PSNR.key()) is not None
    ]
    _over_values(right, points)
    few_ticks(left, narrow)
    right.set_xlabel(key.rpartition(".")[2])
    right.set_ylabel("PSNR of samples, dB")
    return to_svg(figure, "Losses of all runs, and PSNR over the swept value")


def _losses(axes: Any, coloured: Sequence[tuple[Any, str]]) -> None:
    for member, colour in coloured:
        losses = [point.loss for point in member.training]
        means = smoothed(losses, max(2, len(losses) // 10))
        drawn = subsampled([(point.step, mean) for point, mean in zip(member.training, means, strict=True)], 300)
        axes.plot([row[0] for row in drawn], [row[1] for row in drawn], color=colour, linewidth=1.6)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (moving mean)")
    losses = [point.loss for member, _ in coloured for point in member.training]
    if min(losses) > 0 and max(losses) > 8 * min(losses):
        log_axis(axes)


def _over_values(axes: Any, points: Sequence[tuple[Any, float, str]]) -> None:
    """Numeric values on a numeric axis (logarithmic if they span a factor of 10), others in the order of the grid."""
    values = [value for value, _, _ in points]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    labels = list(dict.fromkeys(map(str, values)))
    for value, height, colour in points:
        axes.plot(value if numeric else labels.index(str(value)), height, "o", color=colour, markersize=8)
    if numeric and values and min(values) > 0 and max(values) >= 10 * min(values):
        axes.set_xscale("log")
    if not numeric:
        axes.set_xticks(range(len(labels)), labels)
        axes.set_xlim(-0.5, len(labels) - 0.5)
