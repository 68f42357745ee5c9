"""Stage `sweep`: publishes results/<sweep>/, where the members of a sweep are compared."""

import json
from pathlib import Path
from typing import Any

from cogtune.evaluation.report import compare, gather
from cogtune.evaluation.report.publish import publish
from cogtune.runtime.paths import named_folder
from cogtune.stages.job import Job

MARKER = ".compared-"


def run(job: Job) -> dict[str, Any]:
    """Read what the members' stages left in the store; write report.html, sweep.csv and links to the members' reports."""
    told, points = job.slice.volatile["sweep"], job.config["sweep"]["points"]
    members = [_member(job.upstream_job(name), name, point) for name, point in points.items()]
    texts = {"report.html": compare.render(told["name"], members), "sweep.csv": compare.as_csv(members)}
    links = {member.name: named_folder(job.results, member.name, "sweep") for member in members}
    publish(target(job), job.key, texts, links, MARKER, "sweep")
    return {"made": 1, "reused": 0}


def target(job: Job) -> Path:
    """The folder of results that a run's sweep names. Raises UserError for a name that leads elsewhere."""
    return named_folder(job.results, job.slice.volatile["sweep"]["name"], "sweep")


def _member(report: Job, name: str, point: dict[str, Any]) -> compare.Member:
    train, evaluate, sample = (report.job_dir(stage) for stage in ("train", "evaluate", "sample"))
    rows = gather.with_names(_read(evaluate / "per_sample.json"), report.manifest())
    stages = gather.stages(report.store / "records", report.upstream)
    log = gather.history(train / "log.jsonl")
    return compare.Member(
        name=name,
        point=point,
        metrics=_read(evaluate / "metrics.json"),
        timings=gather.timings(_read(train / "final" / "summary.json"), stages),
        training=log["training"],
        validation=log["validation"],
        strips=gather.strips(rows, sample / "videos", evaluate / "clips", sample / "images"),
    )


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
