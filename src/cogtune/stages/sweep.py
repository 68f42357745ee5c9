"""Stage `sweep`: publishes results/<sweep>/, which compares the members of a sweep."""

from pathlib import Path
from typing import Any

from cogtune.errors import UserError
from cogtune.evaluation.report import compare
from cogtune.evaluation.report.publish import publish
from cogtune.runtime.paths import named_folder
from cogtune.stages.job import Job
from cogtune.stages.report import Figures
from cogtune.stages.run_counts import RunCounts
from cogtune.work.inputs import ReportInput, SweepInput

MARKER, PAGE = ".compared-", ".comparison-"


def run(job: Job[SweepInput]) -> RunCounts:
    """Read the members' results from the store; write report.html, sweep.csv and links to the members' reports."""
    sweep_name, points = _name_of(job), job.input.points
    members = [_member(job.upstream_job(name, ReportInput), name, point) for name, point in points.items()]
    texts = {"report.html": compare.render(sweep_name, members), "sweep.csv": compare.as_csv(members)}
    links = {member.name: named_folder(job.results, member.name, "sweep") for member in members}
    publish(target(job), job.key, texts, links, MARKER, "sweep", PAGE)
    return RunCounts(made=1, reused=0)


def target(job: Job[SweepInput]) -> Path:
    """The results folder of the sweep. Raises UserError if the sweep's name leads out of it."""
    return named_folder(job.results, _name_of(job), "sweep")


def _name_of(job: Job[SweepInput]) -> str:
    if job.slice.volatile.sweep is None:
        raise UserError(f"{job.run_file}: no sweep to publish for job {job.key}; run snakemake again")
    return job.slice.volatile.sweep.name


def _member(report: Job[ReportInput], name: str, point: dict[str, Any]) -> compare.Member:
    figures = Figures.of(report)
    return compare.Member(
        name=name,
        point=point,
        metrics=figures.metrics,
        timings=figures.timings,
        training=figures.training,
        validation=figures.validation,
        strips=figures.strips,
    )
