"""Stage `sweep`: publishes results/<sweep>/, where the members of a sweep are compared."""

from pathlib import Path
from typing import Any

from cogtune.evaluation.report import compare
from cogtune.evaluation.report.publish import publish
from cogtune.runtime.paths import named_folder
from cogtune.stages.job import Job
from cogtune.stages.report import Figures
from cogtune.work.inputs import ReportInput, SweepInput

MARKER, PAGE = ".compared-", ".comparison-"


def run(job: Job[SweepInput]) -> dict[str, Any]:
    """Read what the members' stages left in the store; write report.html, sweep.csv and links to the members' reports."""
    told, points = job.slice.volatile["sweep"], job.input.points
    members = [_member(job.upstream_job(name, ReportInput), name, point) for name, point in points.items()]
    texts = {"report.html": compare.render(told["name"], members), "sweep.csv": compare.as_csv(members)}
    links = {member.name: named_folder(job.results, member.name, "sweep") for member in members}
    publish(target(job), job.key, texts, links, MARKER, "sweep", PAGE)
    return {"made": 1, "reused": 0}


def target(job: Job[SweepInput]) -> Path:
    """The folder of results that a run's sweep names. Raises UserError for a name that leads elsewhere."""
    return named_folder(job.results, job.slice.volatile["sweep"]["name"], "sweep")


def _member(report: Job[ReportInput], name: str, point: dict[str, Any]) -> compare.Member:
    found = Figures.of(report)
    return compare.Member(
        name=name,
        point=point,
        metrics=found.metrics,
        timings=found.timings,
        training=found.training,
        validation=found.validation,
        strips=found.strips,
    )
