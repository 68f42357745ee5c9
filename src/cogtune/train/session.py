"""Runs one rank from its plan to the final result: sets up the model, engine, data and loop."""

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import FileStore, Store  # pyright: ignore[reportPrivateImportUsage]

from cogtune.checkpoints.shapes import shapes_of
from cogtune.config.build import build
from cogtune.config.plugins import allow_plugins, load_used
from cogtune.data.dataset import CachedDataset
from cogtune.data.rows import Pair
from cogtune.diffusion.image import image_condition
from cogtune.diffusion.loss import VideoDiffusionLoss
from cogtune.errors import UserError
from cogtune.model.lora import set_trainable
from cogtune.model.start import Start, initial_model, lora_of
from cogtune.runtime.devices import gpu_uuid, make_deterministic, prepare_torch, visible_gpus
from cogtune.runtime.typed_json import from_json
from cogtune.train import result
from cogtune.train.best import BestStep
from cogtune.train.checkpoint import Checkpoints
from cogtune.train.clock import Clock
from cogtune.train.engine import (
    RankInfo,
    build_engine,
    connect,
    deepspeed_config,
    engine_dtype,
    keeps_average,
    with_own_gpu,
)
from cogtune.train.feed import Feed
from cogtune.train.loop import Intervals, Loop
from cogtune.train.monitor import Monitor
from cogtune.train.optimizers import make_optimizer
from cogtune.train.schedule import Schedule
from cogtune.train.skipped import Skips
from cogtune.train.snapshot import FOLDER as SNAPSHOTS
from cogtune.train.snapshot import Snapshots
from cogtune.train.stop import StopRequest
from cogtune.train.throughput import Throughput, latent_tokens, peak_flops
from cogtune.train.trackers import Trackers, Tracking, open_trackers
from cogtune.train.validation import ClipSet, Validation
from cogtune.train.validation_draws import affordable, chosen, requested, share_of_training, steps_between
from cogtune.work.batches import BatchPlan, plan_batches, total_steps
from cogtune.work.content_hashes import Source, proven
from cogtune.work.engine_keys import recorded
from cogtune.work.inputs import TrainInput
from cogtune.work.results import TrainSummary
from cogtune.work.stage_input import read_input
from cogtune.work.training_log import AVERAGE_WEIGHTS, RAW_WEIGHTS, TrainingLog, figures, read

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The input of a rank. ``config``: the train slice; ``start``: see `start.Start`; ``folder``: the job's folder;
    ``latents``, ``text``, ``images``: folders of cached rows (images only for image-to-video); ``pairs`` and
    ``validation_sets``: the two splits, the second by set; ``threads``: per rank; ``names``: clip -> its file, for messages."""

    key: str
    config: dict[str, Any]
    start: dict[str, Any]
    folder: str
    latents: str
    text: str
    pairs: list[Pair]
    validation_sets: dict[str, list[Pair]]
    threads: int
    images: str | None = None
    names: dict[str, str] = field(default_factory=dict)
    plugins: dict[str, str] = field(default_factory=dict)
    flops: float | None = None
    """Of the model for one training clip, forward and backward; None if it has no cost model."""
    tracking: Tracking | None = None
    sources: list[list[str]] = field(default_factory=list)
    """`content_hashes.Source` of the initial weights and of the plugins, as rows: every rank reads these files."""


def train(plan_dict: dict[str, Any], report: TextIO, stop: StopRequest, store: Store | None = None) -> bool:
    """Train to the end and write final/; False if stopped before. Collective over all ranks.

    ``store`` connects the ranks of several machines; those of one machine use a file, COGTUNE_RENDEZVOUS.
    """
    started, plan = time.monotonic(), from_json(Plan, plan_dict)
    rank_info = RankInfo(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    settings = read_input(TrainInput, plan.config)
    prepare_torch(plan.threads)
    if settings.deterministic:
        make_deterministic()
    allow_plugins(plan.plugins)
    with proven(Source(*row) for row in plan.sources):
        load_used(plan.config)
    if store is None:
        meeting = os.environ["COGTUNE_RENDEZVOUS"]
        connect(rank_info, meeting)
        store = FileStore(f"{meeting.removeprefix('file://')}-checkpoints", rank_info.ranks)
    else:
        rank_info = with_own_gpu(rank_info, visible_gpus(), gpu_uuid, store)
        connect(rank_info, "", store)
    loop, module = _set_up(plan, settings, rank_info, report, stop, store)
    saved = loop.checkpoints.load_newest(lambda text: print(json.dumps({"notice": text}), file=report))
    start = saved.step if saved else 0
    loop.skips.restore(saved.skipped if saved else [])
    if rank_info.rank == 0:
        _log.info("%s step %d of %d", "resuming after" if start else "starting at", start, loop.steps)
        loop.clock = Clock(settings.max_hours, settings.save_minutes, started)
        trackers = open_trackers(plan.tracking, start, plan.config) if plan.tracking else Trackers()
        loop.monitor.begin(TrainingLog(Path(plan.folder) / "log.jsonl", start), trackers)
        print(json.dumps({"start": start, "steps": loop.steps}), file=report)
    stop.defer()
    with loop.checkpoints:
        finished = loop.run(start)
    if finished:
        _finish(plan, loop, module, rank_info)
    loop.monitor.close()
    dist.barrier()
    dist.destroy_process_group()
    return finished


def _set_up(
    plan: Plan, settings: TrainInput, rank_info: RankInfo, report: TextIO, stopping: Callable[[], bool], store: Store
) -> tuple[Loop, nn.Module]:
    section = settings.deepspeed
    batches = plan_batches(settings.micro_batch, settings.global_batch, rank_info.ranks)
    steps = total_steps(settings.steps, settings.epochs, len(plan.pairs), batches.global_batch)
    loss: VideoDiffusionLoss = build(settings.loss)
    module = trainable_model(plan, settings)
    optimizer = make_optimizer(module, section["optimizer"], settings.weight_decay, rank_info.device)
    engine = build_engine(module, optimizer, deepspeed_config(section, batches, rank_info.device))
    if rank_info.rank == 0 and section["zero_optimization"].get("load_from_fp32_weights") is False:
        _log.warning("load_from_fp32_weights: false is ignored; exact resume needs true")
    skips, feed = Skips(settings.max_skipped_steps, plan.names), _feed(plan, settings, module, loss)
    loop = Loop(
        engine=engine,
        loss=loss,
        feed=feed,
        validation=_validation(plan, settings, engine, feed, loss, batches, steps, rank_info),
        plan=batches,
        schedule=_schedule(settings, steps),
        steps=steps,
        intervals=Intervals(settings.save_interval, settings.snapshot_interval),
        checkpoints=Checkpoints(engine, Path(plan.folder) / "checkpoints", settings.keep_checkpoints, store),
        rank=rank_info.rank,
        device=rank_info.device,
        snapshots=_snapshots(plan, settings),
        monitor=Monitor(
            steps=steps,
            log_interval=settings.log_interval,
            throughput=_throughput(plan, settings, feed, module, batches, rank_info),
            report=lambda values: print(json.dumps(values), file=report),
            skips=skips,
        ),
        stopping=stopping,
        skips=skips,
    )
    return loop, module


def trainable_model(plan: Plan, settings: TrainInput) -> nn.Module:
    """The initial model, with the weights frozen that the config freezes. Raises UserError if nothing is trainable or a
    plugin changes the tensors."""
    with proven(Source(*row) for row in plan.sources):
        module = initial_model(Start.from_dict(plan.start), engine_dtype(settings.deepspeed)).train()
    set_trainable(module, settings.frozen_prefixes)
    _check_tensors(module, settings.network)
    return module


def _check_tensors(module: nn.Module, node: dict[str, Any]) -> None:
    """Raise UserError if a plugin in the network adds or removes tensors: its weights could not be loaded or exported."""
    expected = shapes_of(node)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if expected is not None and shapes != expected:
        differing = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
        raise UserError(
            f"model.network_config: a plugin's class changes the tensors of its base class, such as "
            f"{', '.join(differing[:3])}; its weights could not be exported. Keep the names and shapes of all parameters"
        )


def _feed(plan: Plan, settings: TrainInput, module: nn.Module, loss: VideoDiffusionLoss) -> Feed:
    return Feed(
        data=_cached(plan, plan.pairs),
        regularizer=build(settings.regularizer),
        sampling=loss.sampling,
        seed=settings.seed,
        scale_factor=settings.scale_factor,
        caption_dropout=settings.caption_dropout,
        frame_multiple=module.patch_size[0],  # pyright: ignore[reportIndexIssue, reportArgumentType]
        image=image_condition(settings.image_input, settings.image_scale_factor, settings.image_everywhere),
        image_dropout=settings.image_dropout,
    )


def _cached(plan: Plan, pairs: list[Pair]) -> CachedDataset:
    return CachedDataset(Path(plan.latents), Path(plan.text), pairs, Path(plan.images) if plan.images else None)


def _throughput(
    plan: Plan, settings: TrainInput, feed: Feed, module: nn.Module, batches: BatchPlan, rank_info: RankInfo
) -> Throughput:
    """All clips of a training have the size of the first one."""
    patch: Any = module.patch_size
    tokens = batches.global_batch * latent_tokens(feed.data.moments(0).shape[1:], patch)
    flops = plan.flops and batches.global_batch * plan.flops
    half = engine_dtype(settings.deepspeed) != torch.float32
    return Throughput(tokens, flops, peak_flops(rank_info.device, half, rank_info.ranks))


def _schedule(settings: TrainInput, steps: int) -> Schedule:
    return Schedule(
        lr=settings.lr,
        steps=settings.lr_decay_iters or steps,
        style=settings.lr_decay_style,
        warmup=settings.warmup,
        decay_ratio=settings.lr_decay_ratio,
        auto_warmup=settings.auto_warmup,
    )


def _validation(
    plan: Plan,
    settings: TrainInput,
    engine: Any,
    feed: Feed,
    loss: VideoDiffusionLoss,
    batches: BatchPlan,
    steps: int,
    rank_info: RankInfo,
) -> Validation | None:
    sets, interval = plan.validation_sets, settings.eval_interval
    if not sets or not interval:
        return None
    batch, most_clips = settings.eval_batch_size or batches.micro, max(map(len, sets.values()))
    curves = len(sets) * (2 if keeps_average(engine) else 1) + 1
    between = steps_between(interval, steps)
    if settings.eval_iters is None:
        draws = affordable(between, batches.global_batch, curves, most_clips)
    else:
        draws = requested(settings.eval_iters, batch, most_clips, loss.sampling.params.num_idx)
    if rank_info.rank == 0:
        share = share_of_training(draws, curves, between, batches.global_batch)
        each = f"{curves} losses of up to {draws.clips} clips, {draws.strata} draws a clip"
        _log.info("validation every %d steps: %s; about %.2g %% of the training's time", interval, each, 100 * share)

    def clip_set(name: str | None, pairs: list[Pair], count: int) -> ClipSet:
        return ClipSet(name, replace(feed, data=_cached(plan, chosen(pairs, count, settings.seed))), draws.strata)

    measured = [clip_set(name, pairs, draws.clips) for name, pairs in sets.items()]
    best = _best(plan, settings, engine, measured[0], rank_info) if settings.keep_best else None
    return Validation(
        engine=engine,
        loss=loss,
        sets=measured,
        trained=clip_set(None, plan.pairs, len(measured[0].feed.data)),
        rank=rank_info.rank,
        ranks=rank_info.ranks,
        device=rank_info.device,
        interval=interval,
        steps=steps,
        batch=batch,
        best=best,
    )


def _best(plan: Plan, settings: TrainInput, engine: Any, clips: ClipSet, rank_info: RankInfo) -> BestStep:
    weights = AVERAGE_WEIGHTS if keeps_average(engine) else RAW_WEIGHTS
    return BestStep(_snapshots(plan, settings), str(clips.name), weights, clips.digest, rank_info.device)


def _snapshots(plan: Plan, settings: TrainInput) -> Snapshots:
    facts = {"run": plan.key, "base": Start.from_dict(plan.start).origin()}
    return Snapshots(Path(plan.folder) / SNAPSHOTS, facts, adapters=lora_of(settings.network) is not None)


def _finish(plan: Plan, loop: Loop, module: nn.Module, rank_info: RankInfo) -> None:
    folder = Path(plan.folder)
    start = Start.from_dict(plan.start)
    facts = {"run": plan.key, "steps": loop.steps, "base": start.origin()}
    result.write_weights(loop.engine, module, folder / "final", facts, first=rank_info.rank == 0)
    best = loop.validation.best if loop.validation is not None else None
    if best is not None:
        best.checkpointed(last=True)
    if rank_info.rank == 0:
        summary = TrainSummary(
            run=plan.key,
            steps=loop.steps,
            base=start.origin(),
            ranks=rank_info.ranks,
            threads_per_rank=plan.threads,
            engine=recorded(read_input(TrainInput, plan.config).deepspeed),
            start=start.to_dict(),
            **vars(figures(read(folder / "log.jsonl"))),  # pyright: ignore[reportArgumentType]  # LogFigures has its fields
            best=best.kept() if best is not None else None,
            **result.parameter_counts(module),
            peak_memory=result.peak_memory(),
        )
        summary.write(folder / "final")
