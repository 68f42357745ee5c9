"""The loss on fixed draws of clips that are not trained on, and of training clips, while a model trains."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist

from cogtune.diffusion.loss import VideoDiffusionLoss
from cogtune.train.average import average_weights, has_average
from cogtune.train.best import BestStep
from cogtune.train.engine import keeps_average
from cogtune.train.feed import Feed, MicroBatch, Prefetch
from cogtune.train.micro_loss import micro_loss
from cogtune.train.monitor import Monitor
from cogtune.train.validation_draws import digest_of
from cogtune.work.training_log import AVERAGE_WEIGHTS, BANDS, RAW_WEIGHTS, ValidationRow


@dataclass(frozen=True)
class ClipSet:
    """Clips whose loss is measured, all clips of ``feed``, with ``strata`` draws each. ``name``: of the validation set,
    None for training clips."""

    name: str | None
    feed: Feed
    strata: int

    @property
    def digest(self) -> str:
        """See `validation_draws.digest_of`."""
        return digest_of(self.feed.data.pairs, self.strata)

    @property
    def draws(self) -> list[tuple[int, int]]:
        """(item, stratum) of each draw, in order of clips."""
        return [(item, stratum) for item in range(len(self.feed.data)) for stratum in range(self.strata)]


@dataclass(frozen=True)
class Validation:
    """Validation of one rank of ``ranks``: before the first step, every ``interval`` steps and after the last of ``steps``,
    in batches of ``batch`` draws.

    ``sets``: validation sets, the first one decides which step is the best; ``trained``: training clips with the same
    draws, so that the difference shows over-fitting.
    """

    engine: Any
    loss: VideoDiffusionLoss
    sets: Sequence[ClipSet]
    trained: ClipSet
    rank: int
    ranks: int
    device: torch.device
    interval: int
    steps: int
    batch: int
    best: BestStep | None = None

    def due(self, step: int) -> bool:
        return step % self.interval == 0 or step == self.steps

    def begin(self, start: int, monitor: Monitor) -> None:
        """Validate before the first step; after a resume at ``start``, what a stopped run did not. Collective."""
        if self.best is not None:
            self.best.begin(start, monitor.kept_rows)
        missing = torch.tensor([not monitor.has_validation(start)], dtype=torch.uint8, device=self.device)
        dist.broadcast(missing, 0)
        if missing.item() and self.due(start):
            with unrecorded(self.engine):
                self.run(start, monitor)

    def run(self, step: int, monitor: Monitor) -> None:
        """Measure the losses after ``step``. Collective; does not change the training."""
        rows = list(self._rows(step))
        if self.best is not None:
            for row in rows:
                self.best.offer(self.engine, row)
        for row in rows:  # last: a start that finds them in the log does not validate again, and needs the snapshot
            monitor.validation(row)

    def _rows(self, step: int) -> Iterator[ValidationRow]:
        """Rows of the validation sets with raw weights, of the training clips, and of the validation sets with the average
        if there is one. Before the first update the average is the weights."""
        raw = [self._row(step, clips, RAW_WEIGHTS) for clips in (*self.sets, self.trained)]
        yield from raw
        if has_average(self.engine):
            with average_weights(self.engine):
                yield from [self._row(step, clips, AVERAGE_WEIGHTS) for clips in self.sets]
        elif keeps_average(self.engine):
            yield from (replace(row, weights=AVERAGE_WEIGHTS) for row in raw if not row.trained_on)

    def _row(self, step: int, clips: ClipSet, weights: str) -> ValidationRow:
        losses, timesteps = self._losses(clips), clips.feed.sampling.params.num_idx
        index = clips.feed.fixed_index([stratum for _, stratum in clips.draws], clips.strata).tolist()
        bands = [
            [loss for loss, t in zip(losses, index, strict=True) if t * BANDS // timesteps == b] for b in range(BANDS)
        ]
        return ValidationRow(
            step=step,
            validation_loss=_mean(losses),
            set=clips.name,
            weights=weights,
            trained_on=True if clips.name is None else None,
            bands=[_mean(band) if band else None for band in bands],
            draws=clips.digest,
        )

    @torch.no_grad()
    def _losses(self, clips: ClipSet) -> list[float]:
        """The loss of each draw, in order. Every rank measures a part, and gets all."""
        draws = clips.draws
        firsts = range(0, len(draws), self.batch)
        # With ZeRO-3 a forward pass is collective, so all ranks run the same number; surplus results are not counted.
        turns = -(-len(firsts) // self.ranks)
        own = [firsts[min(turn * self.ranks + self.rank, len(firsts) - 1)] for turn in range(turns)]
        losses = torch.zeros(len(draws), dtype=torch.float64, device=self.device)
        self.engine.eval()

        def made(first: int) -> MicroBatch:
            micro_batch = clips.feed.fixed_batch(draws[first : first + self.batch], clips.strata)
            return micro_batch.pinned() if self.device.type == "cuda" else micro_batch

        with Prefetch(made, own) as micro_batches:
            for turn, micro_batch in enumerate(micro_batches):
                loss_B = micro_loss(self.engine, self.loss, micro_batch.to(self.device))
                if turn * self.ranks + self.rank < len(firsts):
                    losses[own[turn] : own[turn] + len(loss_B)] = loss_B.double()
        self.engine.train()
        dist.all_reduce(losses)
        return losses.tolist()


@contextmanager
def unrecorded(engine: Any) -> Iterator[None]:
    """Within the context, ZeRO-3 does not record in which order a pass needs the weights; after it, all weights are split.

    It records its first pass, and later gathers ahead and releases in that order. It also caches what may be released, and
    keeps that cache when the order changes. After an order of a forward pass alone, a layer's backward pass would gather
    what its forward pass found gathered, which selective activation checkpointing refuses. The same happens if the weights
    that stage 3 keeps whole are so before the first step, as `average_weights` leaves them.
    """
    if engine.zero_optimization_stage() < 3:
        yield
        return
    coordinator = engine.optimizer.parameter_offload.get_param_coordinator()
    handle = engine.register_forward_hook(lambda *_: coordinator._invalidate_trace())
    try:
        yield
    finally:
        handle.remove()
    engine.optimizer._partition_all_parameters()


def _mean(losses: Iterable[float]) -> float:
    values = list(losses)
    return math.fsum(values) / len(values)
