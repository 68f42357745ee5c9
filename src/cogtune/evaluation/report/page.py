"""Renders the report as one self-contained HTML file; it loads nothing from the network or other files."""

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from cogtune.evaluation.metrics import METRICS, PSNR, Metric
from cogtune.evaluation.report import plots, summary_text, validation
from cogtune.evaluation.report.report_data import ClipFacts, DataFacts, ReportData, ReportRow, ReportVideo

MAX_VIDEO_BYTES = 48_000_000
"""Maximum size of all embedded videos (4/3 of it in base64); the page says how many are omitted."""
MAX_CLIPS = 200
"""Maximum number of clips in the table of what was done to each."""


@dataclass(frozen=True)
class Embedded:
    """A video or image with its data, as ``picture`` of blocks.html.j2 shows it."""

    video: ReportVideo
    uri: str

    @property
    def still(self) -> bool:
        """Whether it is an image."""
        return self.video.path.suffix == ".png"


def embedded(video: ReportVideo) -> Embedded:
    """``video`` with its data, unless it has a problem."""
    return Embedded(video, "" if video.problem else data_uri(video.path))


def render(report: ReportData) -> str:
    """The page as HTML text. All strings of the report are escaped; only plots, CSS and the script are inserted as
    markup."""
    seconds = {row.stage: row.seconds for row in report.stages if row.seconds is not None}
    strips, left_out = _within_budget(report.strips)
    compared = any(video.hit is not None for strip in strips for video in strip.videos)
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
            training=summary_text.training(report.training, report.timings),
            overfitting=validation.overfitting(report.curves)
            or ("" if report.curves else summary_text.overfitting(report.training, report.validation)),
            validation_plot=plots.both(partial(plots.validation_plot, report.curves)),
            sources=summary_text.data_sources(report.data.folders) if report.data else [],
            compared=compared,
            strips=[(strip, [embedded(video) for video in strip.videos]) for strip in strips],
            left_out=left_out,
            clips=_changed_first(report.data),
            max_clips=MAX_CLIPS,
            loss_plot=plots.both(partial(plots.loss_plot, report.training, report.validation)),
            seconds_plot=plots.both(partial(plots.seconds_plot, seconds)),
            config_lines=list(_config_lines(report.config_yaml)),
            total_seconds=sum(seconds.values()),
        )
    )


def environment(script_file: str = "report.js") -> Any:
    """The Jinja environment of all pages: strings are escaped unless marked as markup; undefined values are errors.

    Pages extend layout.html.j2 and use the macros of blocks.html.j2. The policy allows inline styles, data: media and,
    by its hash, the one script, so no other script runs, even if one got into a page.
    """
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
    script = Path(__file__).with_name(script_file).read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    jinja.globals["script"] = plots.markup(script)
    jinja.globals["viewer"] = script_file == "report.js"
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; media-src data:"
    )
    jinja.globals["policy"] = plots.markup(policy)
    return jinja


def _changed_first(data: DataFacts | None) -> list[ClipFacts]:
    """The clips for the table: those that were changed most first, at most `MAX_CLIPS`."""
    each = data.each if data else []
    return sorted(each, key=lambda clip: (not clip.changed, clip.kept, -clip.scale, clip.name))[:MAX_CLIPS]


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
