"""From a training plan to the finished result: everything that one rank sets up around the loop."""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch.distributed as dist
from torch import nn

from cogtune.checkpoints.shapes import shapes_of
from cogtune.config.build import build
from cogtune.config.plugins import allow_plugins, load_used
from cogtune.data.dataset import CachedDataset
from cogtune.data.rows import Pair
from cogtune.diffusion.image import image_condition
from cogtune.diffusion.loss import VideoDiffusionLoss
from cogtune.errors import UserError
from cogtune.model.lora import set_trainable
from cogtune.model.start import Start, initial_model
from cogtune.runtime.devices import set_threads
from cogtune.runtime.typed_json import from_json
from cogtune.train import checkpoint, result
from cogtune.train.engine import RankInfo, build_engine, connect, deepspeed_config, engine_dtype, make_optimizer
from cogtune.train.feed import Feed
from cogtune.train.loop import Intervals, Loop
from cogtune.train.schedule import Schedule
from cogtune.train.skipped import Skips
from cogtune.work.batches import plan_batches, total_steps
from cogtune.work.content_hashes import Source, proven
from cogtune.work.inputs import TrainInput
from cogtune.work.results import TrainSummary
from cogtune.work.stage_input import read_input
from cogtune.work.training_log import TrainingLog, figures, read

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a rank is told. ``config``: the train slice; ``start``: see `start.Start`; ``folder``: the job's folder;
    ``latents``, ``text``, ``images``: the caches, the last one for image-to-video only; ``pairs`` of
    the training and of the validation split; ``threads`` per rank; ``names``: clip -> its file, for messages."""

    key: str
    config: dict[str, Any]
    start: dict[str, Any]
    folder: str
    latents: str
    text: str
    pairs: list[Pair]
    validation_pairs: list[Pair]
    threads: int
    images: str | None = None
    names: dict[str, str] = field(default_factory=dict)
    plugins: dict[str, str] = field(default_factory=dict)
    sources: list[list[str]] = field(default_factory=list)
    """`files.Source` of what the model starts from and of the plugins, as rows: each rank reads them."""


def train(plan_dict: dict[str, Any], report: TextIO, stopping: Callable[[], bool]) -> bool:
    """Train to the end and write final/; False if asked to stop before. Collective over all ranks."""
    plan = from_json(Plan, plan_dict)
    here = RankInfo(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    set_threads(plan.threads)
    allow_plugins(plan.plugins)
    with proven(Source(*row) for row in plan.sources):
        load_used(plan.config)
    connect(here, os.environ.get("COGTUNE_RENDEZVOUS", "env://"))
    loop, module = _set_up(plan, read_input(TrainInput, plan.config), here, report, stopping)
    found = checkpoint.load_newest(
        loop.engine, loop.folder, lambda text: print(json.dumps({"notice": text}), file=report)
    )
    start = found.step if found else 0
    loop.skips.restore(found.skipped if found else [])
    if here.rank == 0:
        _log.info("%s step %d of %d", "resuming after" if start else "starting at", start, loop.steps)
        loop.training_log = TrainingLog(Path(plan.folder) / "log.jsonl", start)
        print(json.dumps({"start": start, "steps": loop.steps}), file=report)
    finished = loop.run(start)
    if finished:
        _finish(plan, loop, module, here)
    dist.barrier()
    dist.destroy_process_group()
    return finished


def _set_up(
    plan: Plan, given: TrainInput, here: RankInfo, report: TextIO, stopping: Callable[[], bool]
) -> tuple[Loop, nn.Module]:
    section = given.deepspeed
    batches = plan_batches(given.micro_batch, given.global_batch, here.ranks)
    steps = total_steps(given.steps, given.epochs, len(plan.pairs), batches.global_batch)
    loss: VideoDiffusionLoss = build(given.loss)
    module = trainable_model(plan, given)
    optimizer = make_optimizer(module, section["optimizer"], given.weight_decay)
    engine = build_engine(module, optimizer, deepspeed_config(section, batches, here.device))
    if here.rank == 0 and section["zero_optimization"].get("load_from_fp32_weights") is False:
        _log.warning("load_from_fp32_weights is true for exact resume, though the config says false")
    loop = Loop(
        engine=engine,
        loss=loss,
        feed=_feed(plan, given, plan.pairs, module, loss),
        validation=_feed(plan, given, plan.validation_pairs, module, loss) if plan.validation_pairs else None,
        plan=batches,
        schedule=_schedule(given, steps),
        steps=steps,
        intervals=_intervals(given, batches.micro),
        folder=Path(plan.folder) / "checkpoints",
        rank=here.rank,
        device=here.device,
        on_step=lambda step, loss: print(json.dumps({"step": step, "loss": loss}), file=report),
        stopping=stopping,
        skips=Skips(given.max_skipped_steps, plan.names),
    )
    return loop, module


def trainable_model(plan: Plan, given: TrainInput) -> nn.Module:
    """The starting model with everything frozen that the config freezes."""
    with proven(Source(*row) for row in plan.sources):
        module = initial_model(Start.from_dict(plan.start), engine_dtype(given.deepspeed)).train()
    set_trainable(module, given.frozen_prefixes)
    _check_tensors(module, given.network)
    return module


def _check_tensors(module: nn.Module, node: dict[str, Any]) -> None:
    """Raise UserError if a plugin in the network adds or drops tensors: nothing could load or export what is trained."""
    expected = shapes_of(node)
    held = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if expected is not None and held != expected:
        odd = sorted(name for name in held.keys() | expected.keys() if held.get(name) != expected.get(name))
        raise UserError(
            f"model.network_config: a class of your own has other tensors than the one that it derives from, such as "
            f"{', '.join(odd[:3])}; weights of it could not be exported. Keep names and shapes, and compute otherwise"
        )


def _feed(plan: Plan, given: TrainInput, pairs: list[Pair], module: nn.Module, loss: VideoDiffusionLoss) -> Feed:
    return Feed(
        data=CachedDataset(
            Path(plan.latents),
            Path(plan.text),
            pairs,
            Path(plan.images) if plan.images else None,
        ),
        regularizer=build(given.regularizer),
        sampling=loss.sampling,
        seed=given.seed,
        scale_factor=given.scale_factor,
        caption_dropout=given.caption_dropout,
        frame_multiple=module.patch_size[0],  # pyright: ignore[reportIndexIssue, reportArgumentType]
        image=image_condition(given.image_input, given.image_scale_factor, given.image_everywhere),
        image_dropout=given.image_dropout,
    )


def _schedule(given: TrainInput, steps: int) -> Schedule:
    return Schedule(
        lr=given.lr,
        steps=given.lr_decay_iters or steps,
        style=given.lr_decay_style,
        warmup=given.warmup,
        decay_ratio=given.lr_decay_ratio,
        auto_warmup=given.auto_warmup,
    )


def _intervals(given: TrainInput, micro: int) -> Intervals:
    size = given.eval_batch_size or micro
    return Intervals(
        save=given.save_interval,
        keep=given.keep_checkpoints,
        log=given.log_interval,
        evaluate=given.eval_interval or 0,
        evaluate_batch=size,
        evaluate_draws=size * given.eval_iters,
    )


def _finish(plan: Plan, loop: Loop, module: nn.Module, here: RankInfo) -> None:
    folder = Path(plan.folder)
    start = Start.from_dict(plan.start)
    facts = {"run": plan.key, "steps": loop.steps, "base": start.origin()}
    result.write_weights(loop.engine, module, folder / "final", facts, first=here.rank == 0)
    if here.rank == 0:
        summary = TrainSummary(
            run=plan.key,
            steps=loop.steps,
            base=start.origin(),
            ranks=here.ranks,
            threads_per_rank=plan.threads,
            start=start.to_dict(),
            **vars(figures(read(folder / "log.jsonl"))),  # pyright: ignore[reportArgumentType]  # LogFigures has its fields
            **result.parameter_counts(module),
            peak_memory=result.peak_memory(),
        )
        summary.write(folder / "final")
