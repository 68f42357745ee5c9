"""Stage `train`: trains the diffusion transformer on cached latents and text. It resumes from the newest checkpoint."""

import json
import logging
import os
from contextlib import AbstractContextManager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from cogtune.data.rows import Pair
from cogtune.errors import UserError
from cogtune.model.start import Start
from cogtune.runtime import slurm
from cogtune.runtime.progress import Progress
from cogtune.runtime.stopping import RESUME, Interrupted, Stopped
from cogtune.stages.job import Job
from cogtune.stages.latents import accepted
from cogtune.stages.preprocess import clips_of
from cogtune.stages.run_counts import RunCounts
from cogtune.stages.train_costs import model_flops, out_of_memory
from cogtune.stages.validation_sets import validation_sets
from cogtune.stages.watch_training import TrainingPage
from cogtune.train import checkpoint, result, snapshot
from cogtune.train.ends import RankMemoryError
from cogtune.train.joined import World, run_joined_ranks
from cogtune.train.launch import run_ranks
from cogtune.train.rank_log import RANK_LOG, RankLog
from cogtune.train.session import Plan
from cogtune.train.srun import check_ranks, run_ranks_by_srun
from cogtune.train.trackers import NO_TENSORBOARD, Tracking, WandbRun, has_tensorboard
from cogtune.work.batches import BatchMemo
from cogtune.work.content_hashes import Source, restamped
from cogtune.work.inputs import TrainInput
from cogtune.work.results import SUMMARY, read_summary
from cogtune.work.results_folder import EVENTS

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainCounts(RunCounts):
    """The training, as made or reused, and figures of its `TrainSummary`."""

    steps: int
    skipped_steps: int | None = None
    overflowed_steps: int | None = None
    loss_first: float
    loss_last: float
    validation_loss_last: float | None = None
    steps_per_second: float
    data_wait_fraction: float
    parameters_trained: int
    parameters_total: int


def run(job: Job[TrainInput]) -> TrainCounts:
    """Train until final/summary.json exists, starting from the newest checkpoint if there is one.

    Exits with 143 if SIGTERM stopped it after a checkpoint.
    """
    final = job.job_dir() / "final"
    made = not (final / SUMMARY).exists()
    if made:
        _train(job)
    summary = read_summary(job.job_dir())
    return TrainCounts(
        made=int(made),
        reused=int(not made),
        steps=summary.steps,
        skipped_steps=summary.skipped_steps,
        overflowed_steps=summary.overflowed_steps,
        loss_first=summary.loss_first,
        loss_last=summary.loss_last,
        validation_loss_last=summary.validation_loss_last,
        steps_per_second=summary.steps_per_second,
        data_wait_fraction=summary.data_wait_fraction,
        parameters_trained=summary.parameters_trained,
        parameters_total=summary.parameters_total,
    )


def start_of(job: Job[TrainInput]) -> Start:
    """The model that the train job ``job`` starts with. `start.initial_model` builds it, for training and for samples of
    the base model."""
    settings = job.input
    if "load" not in job.upstream:
        return Start(settings.network, settings.seed, weights=settings.load)
    trained = job.job_dir("load") / "final" / result.MODEL
    before = start_of(job.upstream_job("load", TrainInput))
    return Start(settings.network, settings.seed, before=before, trained=str(trained))


def start_sources(job: Job[Any]) -> list[Source]:
    """The weight files of the model of `start_of`: those of ``args.load``, here and in the training that this one
    continues."""
    earlier = start_sources(job.upstream_job("load")) if "load" in job.upstream else []
    return [*job.sources("args.load"), *earlier]


def plan_of(job: Job[TrainInput]) -> Plan:
    """The plan that every rank reads. Raises UserError if a clip or caption is not encoded, or no training clip is left."""
    manifest = job.manifest()
    usable = set(accepted(clips_of(manifest), job.upstream_job("latents").rows("preprocess")))
    rows = [row for row in manifest if row.clip in usable]
    for stage in ("latents", "images"):
        if stage in job.upstream:
            job.rows(stage).require(usable)
    job.rows("text").require(row.caption_id for row in rows)
    pairs = [Pair(row.clip, row.caption_id) for row in rows if row.split == "train"]
    if not pairs:
        rejects = job.job_dir("scan") / "rejects.jsonl"
        raise UserError(f"args.train_data: no clip was accepted for training; see {rejects} for the reasons")
    return Plan(
        key=job.key,
        config=job.slice.config(),
        start=start_of(job).to_dict(),
        folder=str(job.job_dir()),
        latents=str(job.items_dir("latents")),
        text=str(job.items_dir("text")),
        pairs=pairs,
        validation_sets=validation_sets(rows, job.input.valid_data),
        threads=job.input.threads,
        names={row.clip: row.path for row in rows},
        plugins=job.slice.volatile.plugins,
        flops=model_flops(job),
        tracking=tracking_of(job),
        sources=[list(astuple(source)) for source in restamped(start_sources(job))],
        images=str(job.items_dir("images")) if "images" in job.upstream else None,
    )


def tracking_of(job: Job[TrainInput]) -> Tracking:
    """Where the curves go, by upstream's keys (args.wandb, args.summary_dir) and DeepSpeed's sections. A folder that a key
    names gets one folder for each training, named like the experiment and the key."""
    settings, section, folder = job.input, job.input.deepspeed, job.job_dir()
    name = f"{job.experiment}-{job.key}"
    board, table, wandb = (section.get(part) or {} for part in ("tensorboard", "csv_monitor", "wandb"))

    def place(node: dict[str, Any], own: Path) -> str:
        path = node.get("output_path") or (settings.summary_dir if own.name == EVENTS else "")
        return os.path.abspath(Path(path, node.get("job_name") or "", name) if path else own)

    run = None
    if settings.wandb or wandb.get("enabled"):
        project, team = wandb.get("project") or settings.wandb_project, wandb.get("team") or settings.wandb_team
        run = WandbRun(project, name, team, wandb.get("group"))
    return Tracking(
        folder=os.path.abspath(folder),
        tensorboard=None if board.get("enabled") is False else place(board, folder / EVENTS),
        csv=place(table, folder / "csv") if table.get("enabled") else None,
        wandb=run,
    )


def _train(job: Job[TrainInput]) -> None:
    folder = job.job_dir()
    folder.mkdir(parents=True, exist_ok=True)
    if memo := job.slice.volatile.batch_memo:
        BatchMemo(job.store, memo).write(job.input.global_batch, job.key)
    checkpoint.clear_unfinished(folder / "checkpoints")
    snapshot.clear_unfinished(folder / snapshot.FOLDER)
    result.clear_unfinished(folder / "final")
    plan = plan_of(job)
    event_files = plan.tracking.tensorboard if plan.tracking else None
    if event_files and not has_tensorboard():
        event_files = None
        _log.info("[train] %s", NO_TENSORBOARD)
    page = TrainingPage(job, Path(event_files) if event_files else None)
    page.begin()
    reports = _Reports(job, page)
    try:
        with reports:
            done = _run_ranks(job, plan, RankLog(folder / RANK_LOG, job.log_path), reports)
    except KeyboardInterrupt:
        _say_stopped(folder, reports)
        raise Interrupted from None
    except RankMemoryError as error:
        raise out_of_memory(job, error.error) from None
    if not done:
        _say_stopped(folder, reports)
        raise Stopped(
            progress=reports.steps > 0, log=folder / RANK_LOG, explained=True, by_config=bool(reports.why_stopped)
        )


def _say_stopped(folder: Path, reports: "_Reports") -> None:
    """The last line of a training that was stopped: what is saved, and how to go on."""
    saved = checkpoint.newest_step(folder / "checkpoints")
    kept = f"the checkpoint of step {saved} is saved" if saved else "there is no checkpoint yet"
    step, steps = reports.place
    place = f"at step {step} of {steps}" if steps else "before the first step"
    why = f" because {reports.why_stopped}" if reports.why_stopped else ""
    _log.warning("[train] stopped %s%s; %s. %s", place, why, kept, RESUME)


def _run_ranks(job: Job[TrainInput], plan: Plan, log: RankLog, reports: "_Reports") -> bool:
    """Run the ranks as tasks of a Slurm job, as processes that torchrun started, or on this machine; see `run_ranks`."""
    values, world, slurm_job = asdict(plan), World.from_environment(), slurm.this_job()
    place = f", Slurm job {slurm_job.id} on {slurm_job.hosts}, restart {slurm_job.restarts}" if slurm_job else ""
    log.note(f"start of key {job.key} with {job.ranks} ranks{place}")
    if world is not None:
        return run_joined_ranks(world, values, job.ranks, plan.threads, log.path, reports.line, log.copy)
    if slurm_job is not None:
        check_ranks(job.ranks, slurm_job)
        if slurm_job.nodes > 1:
            return run_ranks_by_srun(values, job.ranks, plan.threads, slurm_job, log.path, reports.line, log.copy)
    return run_ranks(values, job.ranks, plan.threads, log.path, reports.line, log.copy)


_RATES = {"tokens_per_second": "{:,.0f} tokens/s", "mfu": "MFU {:.0%}"}
"""Figures of a report that are measured over several steps, and how the progress line has them."""


class _Reports:
    """Converts reports of the first rank to a progress bar and to ``page``."""

    def __init__(self, job: Job[TrainInput], page: TrainingPage) -> None:
        self._job, self._page = job, page
        self.place = (0, 0)
        """The last step, and the number of all steps."""
        self.why_stopped = ""
        """Why the ranks stopped, if not for a signal."""
        self._rates = dict[str, float]()
        self._context: AbstractContextManager[Progress] | None = None
        self._bar: Progress | None = None
        self.steps = 0
        """Steps of this start."""

    def __enter__(self) -> "_Reports":
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._context is not None:
            self._context.__exit__(*exception)
        self._page.end()

    def line(self, text: str) -> None:
        report = json.loads(text)
        if "notice" in report:
            _log.warning("[train] %s", report["notice"])
        elif "stopped" in report:
            self.why_stopped = report["stopped"]
        elif "start" in report:
            label = f"train from step {report['start']}" if report["start"] else "train"
            self.place = (report["start"], report["steps"])
            self._context = self._job.progress(report["steps"] - report["start"], label, "steps")
            self._bar = self._context.__enter__()
        elif self._bar is not None:
            self.steps += 1
            self.place = (report["step"], self.place[1])
            self._rates |= {name: report[name] for name in _RATES if report[name] is not None}
            self._bar.advance(1, self._note(report))
            self._page.advance(*self.place)

    def _note(self, report: dict[str, Any]) -> str:
        """Loss, as the mean of the last steps, because single steps differ by their noise level, and the last rates."""
        parts = [] if report["loss"] is None else [f"loss {report['loss']:.4f}"]
        parts.append(f"lr {report['lr']:.3g}")
        parts += [text.format(self._rates[name]) for name, text in _RATES.items() if name in self._rates]
        if report["skipped"]:
            parts.append(f"{report['skipped']} skipped")
        return ", ".join(parts)
