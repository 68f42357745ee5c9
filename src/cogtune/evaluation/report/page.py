"""Renders the report as one self-contained HTML file without scripts; it loads nothing from the network or other files."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cogtune.evaluation.metrics import METRICS, PSNR, Metric
from cogtune.evaluation.report import plots, summary_text
from cogtune.evaluation.report.report_data import ReportData, ReportRow, ReportVideo

MAX_VIDEO_BYTES = 48_000_000
"""Maximum size of all embedded videos (4/3 of it in base64); the page says how many are omitted."""


@dataclass(frozen=True)
class _Embedded:
    video: ReportVideo
    uri: str

    @property
    def still(self) -> bool:
        """Whether it is an image."""
        return self.video.path.suffix == ".png"


def render(report: ReportData) -> str:
    """The page as HTML text. All strings of the report are escaped; only plots and CSS are inserted as markup."""
    seconds = {row.stage: row.seconds for row in report.stages if row.seconds is not None}
    strips, left_out = _within_budget(report.strips)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            headline=summary_text.headline(report.metrics, trained=report.data is not None),
            summary=summary_text.summary(report.metrics),
            metrics=METRICS,
            psnr=PSNR,
            rows=summary_text.rows(report.metrics),
            training=summary_text.training(report.metrics, report.timings),
            strips=[
                (strip, [_Embedded(video, "" if video.problem else data_uri(video.path)) for video in strip.videos])
                for strip in strips
            ],
            left_out=left_out,
            loss_plot=plots.markup(plots.loss_plot(report.training, report.validation)),
            seconds_plot=plots.markup(plots.seconds_plot(seconds)),
            config_lines=list(_config_lines(report.config_yaml)),
            total_seconds=sum(seconds.values()),
        )
    )


def environment() -> Any:
    """The Jinja environment of all pages: strings are escaped unless marked as markup; undefined values are errors."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    jinja = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters.update(duration=plots.duration, error=_error, figure=_figure, in_units=_in_units)
    jinja.globals["css"] = plots.markup(Path(__file__).with_name("report.css").read_text())
    return jinja


def _within_budget(strips: list[ReportRow]) -> tuple[list[ReportRow], int]:
    used, kept = 0, 0
    for strip in strips:
        used += sum(video.path.stat().st_size for video in strip.videos if not video.problem)
        if used > MAX_VIDEO_BYTES and kept:
            break
        kept += 1
    return strips[:kept], len(strips) - kept


@cache
def data_uri(path: Path) -> str:
    """A data: URI of an mp4 or png file."""
    kind = "image/png" if path.suffix == ".png" else "video/mp4"
    return f"data:{kind};base64," + base64.b64encode(path.read_bytes()).decode()


def _config_lines(text: str) -> Iterator[tuple[str, str]]:
    """(YAML, comment with the value's source) of each line."""
    for line in text.splitlines():
        code, mark, comment = line.rpartition("  # ")
        yield (code.rstrip(), comment) if mark else (line, "")


def _in_units(value: float | None, metric: Metric) -> str:
    unit = f"\N{NO-BREAK SPACE}{metric.unit}" if metric.unit else ""
    return "–" if value is None else f"{value:.{metric.table_digits}f}{unit}"


def _error(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}" if value else "0"


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
