"""Stage `report`: publishes results/<experiment>/, from what the other stages left in the store."""

import json
import time
from pathlib import Path
from typing import Any

from cogtune.evaluation.report import gather, page
from cogtune.evaluation.report.evidence import Evidence
from cogtune.evaluation.report.identity import commit, versions, weights_of
from cogtune.evaluation.report.publish import publish, to_json
from cogtune.runtime.paths import named_folder
from cogtune.stages.job import Job


def run(job: Job) -> dict[str, Any]:
    """Write report.html and the files beside it, relink the store, and set the marker last. Takes a second or two."""
    started = time.monotonic()
    told = job.slice.volatile["report"]
    rows = gather.with_names(_read(job.job_dir("evaluate") / "per_sample.json"), job.manifest())
    stages = gather.stages(job.store / "records", job.upstream)
    evidence = Evidence(
        experiment=told["experiment"],
        metrics=_read(job.job_dir("evaluate") / "metrics.json"),
        timings=gather.timings(_read(job.job_dir("train") / "final" / "summary.json"), stages),
        strips=gather.strips(
            rows,
            job.job_dir("sample") / "videos",
            job.job_dir("evaluate") / "clips",
            job.job_dir("sample") / "images",
        ),
        **gather.history(job.job_dir("train") / "log.jsonl"),
        data=_data(job),
        stages=stages,
        exports=gather.exports(job.items_dir("export") / "index.json"),
        config_yaml=told["config_yaml"],
        run=_identity(job),
    )
    html = page.render(evidence)
    timings = evidence.timings | {"seconds.report": round(time.monotonic() - started, 3)}
    texts = {
        "report.html": html,
        "metrics.json": to_json(evidence.metrics),
        "per_sample.json": to_json(rows),
        "timings.json": to_json(timings),
        "config.yaml": evidence.config_yaml,
        "run.json": to_json(evidence.run),
    }
    publish(target(job), job.key, texts, _links(job))
    return {"made": 1, "reused": 0}


def target(job: Job) -> Path:
    """The folder of results that a run's report names. Raises UserError for a name that leads elsewhere."""
    return named_folder(job.results, job.slice.volatile["report"]["experiment"], "experiment")


def _links(job: Job) -> dict[str, Path]:
    return {
        "checkpoints": job.job_dir("train") / "checkpoints",
        "export": job.items_dir("export"),
        "samples": job.job_dir("sample") / "videos",
        "clips": job.job_dir("evaluate") / "clips",
    }


def _identity(job: Job) -> dict[str, Any]:
    """The content of run.json: enough to tell two runs apart and to find their work in the store.

    ``keys.load`` is the training that this one started from, if it did.
    """
    started_from = {name: key for name, key in job.upstream_job("train").upstream.items() if name == "load"}
    return {
        "keys": job.upstream | started_from | {"report": job.key},
        "data": job.slice.identity.get("data"),
        "weights": weights_of(job.upstream_job(stage).slice for stage in job.upstream),
        "versions": versions(),
        "commit": commit(Path(__file__).parent),
    }


def _data(job: Job) -> Any:
    params = job.config["data"]["params"]
    return gather.data_facts(
        manifest=job.manifest(),
        rejects=job.job_dir("scan") / "rejects.jsonl",
        frames=job.rows("preprocess"),
        encoded=job.rows("text"),
        params=params,
    )


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
