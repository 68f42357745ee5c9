"""Stage `report`: publishes results/<experiment>/ from the results of the other stages in the store."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogtune.errors import UserError
from cogtune.evaluation.report import gather, page
from cogtune.evaluation.report.file_names import clip_names, sample_names
from cogtune.evaluation.report.provenance import commit, versions, weights_of
from cogtune.evaluation.report.publish import publish, to_json
from cogtune.evaluation.report.report_data import Exported, LossPoint, ReportData, ReportRow, ValidationCurve
from cogtune.evaluation.report.validation import validation_curves
from cogtune.evaluation.sample_figures import SampleFigures, read_metrics, read_per_sample, with_names
from cogtune.runtime.paths import inside, named_folder
from cogtune.stages.job import Job
from cogtune.stages.report_setup import About
from cogtune.stages.run_counts import RunCounts
from cogtune.work import training_log
from cogtune.work.export_formats import written_formats
from cogtune.work.inputs import ExportInput, ReportInput, SampleInput
from cogtune.work.results import ExportIndex, TrainSummary, read_index, read_summary
from cogtune.work.results_folder import link_training
from cogtune.work.training_log import AVERAGE_WEIGHTS
from cogtune.work.volatile import ReportRun


def run(job: Job[ReportInput]) -> RunCounts:
    """Write report.html, the files beside it and the links to the store, and the marker last. Takes one to two seconds."""
    started = time.monotonic()
    this_run = _run_of(job)
    figures = Figures.of(job)
    trained = "train" in job.upstream
    index = read_index(job.items_dir("export")) if trained else None
    exports = _exports(job, index) if index else []
    about = About(job, this_run, figures.strips)
    data = ReportData(
        experiment=this_run.experiment,
        metrics=figures.metrics,
        timings=figures.timings,
        strips=figures.strips,
        training=figures.training,
        validation=figures.validation,
        curves=figures.curves,
        best=figures.best,
        data=about.data,
        stages=gather.stages(job.store / "records", job.upstream),
        exports=exports,
        config_yaml=this_run.config_yaml,
        run=_identity(job),
        setup=about.setup(index),
        use=about.use(exports) if index else None,
        command=this_run.command,
        made_from=this_run.made_from,
    )
    html, names = page.render(data), sample_names(figures.samples)
    timings = data.timings | {"seconds.report": round(time.monotonic() - started, 3)}
    texts = {
        "report.html": html,
        "metrics.json": to_json(data.metrics),
        "per_sample.json": to_json(
            [one.to_json(names=True) | {"file": names[one.sample.item]} for one in figures.samples]
        ),
        "timings.json": to_json(timings),
        "config.yaml": data.config_yaml,
        "run.json": to_json(data.run),
    }
    if data.data:
        texts["clips.csv"] = gather.clips_csv(data.data.each)
    if "train" in job.upstream:
        link_training(job.results, target(job), job.upstream["train"], job.job_dir("train") / "checkpoints")
    publish(target(job), job.key, texts, _links(job), files=_files(job, figures.samples, names))
    return RunCounts(made=1, reused=0)


def _exports(job: Job[ReportInput], index: ExportIndex) -> list[Exported]:
    formats = job.upstream_job("export", ExportInput).input.formats
    return gather.exports(index, written_formats(index.format, formats))


def target(job: Job[ReportInput]) -> Path:
    """The results folder of the report. Raises UserError if the experiment's name leads out of it."""
    return named_folder(job.results, _run_of(job).experiment, "experiment")


def _run_of(job: Job[ReportInput]) -> ReportRun:
    if (this_run := job.slice.volatile.report) is None:
        raise UserError(f"{job.run_file}: no experiment to publish for job {job.key}; run snakemake again")
    return this_run


def _best(summary: TrainSummary) -> str:
    if (kept := summary.best) is None:
        return ""
    weights = "average weights" if kept.weights == AVERAGE_WEIGHTS else "weights"
    return f"The {weights} of step {kept.step:,}, whose loss on {kept.set} was lowest, are in the training's {kept.snapshot}."


@dataclass(frozen=True)
class Figures:
    """Results of a report job's upstream stages, also used by sweeps. ``samples`` are those of per_sample.json."""

    samples: list[SampleFigures]
    metrics: dict[str, Any]
    timings: dict[str, Any]
    strips: list[ReportRow]
    training: list[LossPoint]
    validation: list[LossPoint]
    curves: list[ValidationCurve] = field(default_factory=list)
    best: str = ""

    @classmethod
    def of(cls, report: Job[ReportInput]) -> "Figures":
        """Read the figures of ``report`` from the store."""
        sample, stages = report.job_dir("sample"), gather.stages(report.store / "records", report.upstream)
        if "train" not in report.upstream:
            # Imported only here: other reports do not need torch, and start in a second.
            from cogtune.evaluation.measure import per_sample
            from cogtune.stages.evaluate import read_samples
            from cogtune.stages.sample import sample_ids

            reader = report.rows("sample")
            samples = read_samples(reader, sample_ids(report.upstream_job("sample", SampleInput)))
            rows, metrics = per_sample(samples, {}), {"samples.count": len({one.prompt for one in samples})}
            strips = gather.strips(rows, sample / "videos", None, sample / "images", gather.SAMPLED_LABELS)
            return cls(rows, metrics, gather.timings(None, stages), strips, [], [])
        train, evaluate = report.job_dir("train"), report.job_dir("evaluate")
        log, summary = training_log.read(train / "log.jsonl"), read_summary(train)
        rows = with_names(read_per_sample(evaluate), report.manifest())
        return cls(
            rows,
            read_metrics(evaluate),
            gather.timings(summary, stages),
            gather.strips(rows, sample / "videos", evaluate / "clips", sample / "images"),
            *gather.loss_curves(log),
            validation_curves(log),
            _best(summary),
        )


def _links(job: Job[ReportInput]) -> dict[str, Path]:
    if "train" not in job.upstream:
        return {}
    checkpoints = job.job_dir("train") / "checkpoints"  # somebody may have removed them to free space
    return ({"checkpoints": checkpoints} if checkpoints.exists() else {}) | {"export": job.items_dir("export")}


def _files(
    job: Job[ReportInput], samples: Sequence[SampleFigures], names: Mapping[str, str]
) -> dict[str, dict[str, Path]]:
    """The folders of results with one link for each video."""
    videos = job.job_dir("sample") / "videos"
    files = {"samples": {name: inside(videos, f"{item}.mp4", "per_sample.json") for item, name in names.items()}}
    if "evaluate" in job.upstream:
        files["clips"] = clip_names(samples, job.job_dir("evaluate") / "clips")
    return files


def _identity(job: Job[ReportInput]) -> dict[str, Any]:
    """The content of run.json: it distinguishes runs, and gives the keys of their results in the store.

    ``keys.load`` is the training that this run started from, or whose result was sampled, if any.
    """
    first = job.upstream_job("train" if "train" in job.upstream else "sample")
    started_from = {name: key for name, key in first.upstream.items() if name == "load"}
    return {
        "keys": job.upstream | started_from | {"report": job.key},
        "data": job.slice.identity.get("data"),
        "weights": weights_of(job.upstream_job(stage).slice for stage in job.upstream),
        "versions": versions(),
        "commit": commit(Path(__file__).parent),
    }
