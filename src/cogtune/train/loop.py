"""The training loop."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cogtune.diffusion.loss import VideoDiffusionLoss
from cogtune.diffusion.noise import generator
from cogtune.errors import UserError
from cogtune.train.checkpoint import Checkpoints
from cogtune.train.clock import Clock
from cogtune.train.engine import take_step
from cogtune.train.feed import Feed, MicroBatch, Prefetch, StepFeed
from cogtune.train.micro_loss import micro_loss
from cogtune.train.monitor import Monitor, Step
from cogtune.train.schedule import Schedule
from cogtune.train.skipped import Skipped, Skips
from cogtune.train.snapshot import Snapshots
from cogtune.train.validation import Validation
from cogtune.work.batches import BatchPlan

_STOP, _SAVE, _OVER = 1, 2, 4
"""Flags of a rank: it received a signal to stop; it is time for a checkpoint; the time of this start is over."""


@dataclass(frozen=True)
class Intervals:
    """Intervals in steps, 0 for never: ``save`` a checkpoint, ``snapshot``."""

    save: int
    snapshot: int = 0


@dataclass
class Loop:
    """The training loop of one rank.

    ``stopping()`` returns whether this rank received a signal to stop; ``clock`` is the first rank's. Random draws depend
    only on (seed, step, position in the global batch). ``skips``: the skipped steps and their allowed number.
    """

    engine: Any
    loss: VideoDiffusionLoss
    feed: Feed
    validation: Validation | None
    plan: BatchPlan
    schedule: Schedule
    steps: int
    intervals: Intervals
    checkpoints: Checkpoints
    rank: int
    device: torch.device
    monitor: Monitor
    snapshots: Snapshots
    stopping: Callable[[], bool] = lambda: False
    skips: Skips = field(default_factory=lambda: Skips(0))
    clock: Clock = field(default_factory=Clock)

    def run(self, start: int) -> bool:
        """Train from step ``start`` to the end; False if stopped before, after writing a checkpoint.

        Raises UserError, after writing a checkpoint, if too many steps were skipped.
        """
        if too_many := self.skips.too_many(self.steps if start == self.steps else None):
            raise UserError(too_many)
        step_feed = StepFeed(self.feed, self.plan, self.rank, pin=self.device.type == "cuda")
        self.engine.train()
        if self.validation is not None:
            self.validation.begin(start, self.monitor)
        with Prefetch(step_feed.step, range(start, self.steps)) as batches:
            batch_iterator = iter(batches)
            for step in range(start, self.steps):
                self.checkpoints.check()
                started = time.perf_counter()
                micro_batches = next(batch_iterator)
                waited = time.perf_counter() - started
                outcome = self._step(step, micro_batches, step_feed)
                self.monitor.step(outcome, time.perf_counter() - started, waited)
                done = step + 1 == self.steps
                if self.validation is not None and self.validation.due(step + 1) and (done or not outcome.stop):
                    self.validation.run(step + 1, self.monitor)
                too_many = self.skips.too_many(self.steps if done else None)
                save_due = outcome.save or (self.intervals.save and (step + 1) % self.intervals.save == 0)
                if self.intervals.snapshot and (step + 1) % self.intervals.snapshot == 0:
                    # Before the checkpoint: a training that resumes from that does not write this snapshot again.
                    self.snapshots.save(self.engine, step + 1)
                if outcome.stop or done or too_many or save_due:
                    self._save(step + 1)
                    if self.validation is not None and self.validation.best is not None:
                        self.validation.best.checkpointed(last=False)
                if too_many:
                    raise UserError(too_many)
                if outcome.stop and not done:
                    return False
        return True

    def _step(self, step: int, micro_batches: list[MicroBatch], step_feed: StepFeed) -> Step:
        """Forward and backward over this rank's micro batches, then one optimizer step. If the loss or the gradient is
        not finite, the step is skipped on all ranks."""
        rate = self.schedule(step)
        losses = []
        for draws, positions in zip(micro_batches, self._positions(), strict=True):
            # Dropout, if a LoRA has it, is the only draw from torch's global generator.
            self._seed(generator(self.feed.seed, "dropout", step, positions[0]).initial_seed())
            loss_B = micro_loss(self.engine, self.loss, draws.to(self.device))
            self.engine.backward(loss_B.mean())
            losses.append(loss_B.detach())
            if len(losses) < self.plan.accumulation:
                self.engine.step()  # counts the micro batch; only the last one updates the weights
        ordered, flags = self._agree(torch.stack(losses))
        bad = [position for position, loss in enumerate(ordered) if not math.isfinite(loss)]
        loss = ordered[bad[0]] if bad else math.fsum(ordered) / len(ordered)
        update = take_step(self.engine, rate, hold=bool(bad))
        skipped = None
        if not update.applied and not update.overflowed:
            why = f"the loss is {loss}" if bad else f"the gradient norm is {update.norm}"
            skipped = Skipped(step + 1, why, step_feed.clips(step, bad or range(self.plan.global_batch)))
            self.skips.steps.append(skipped)
        return Step(
            number=step + 1,
            loss=loss,
            rate=rate,
            norm=update.norm,
            stop=bool(flags & (_STOP | _OVER)),
            why_stop=self.clock.why_stop() if flags & _OVER else "",
            save=bool(flags & _SAVE),
            skipped=skipped,
            overflowed=update.overflowed,
        )

    def _seed(self, seed: int) -> None:
        """`torch.manual_seed` without a GPU takes 0.5 ms: it keeps the call, with its stack, for a GPU that may start."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _positions(self) -> list[range]:
        return [self.plan.positions(self.rank, k) for k in range(self.plan.accumulation)]

    def _agree(self, losses_KB: Tensor) -> tuple[list[float], int]:
        """The losses of the global batch by position, so that their sum does not depend on the number of ranks; and the flags
        that any rank has set, so that all stop, or save, at the same step."""
        own = _STOP * self.stopping() | _SAVE * self.clock.save_due() | _OVER * self.clock.stop_due()
        local = torch.cat([losses_KB.float().flatten(), torch.full((1,), float(own), device=self.device)])
        gathered = [torch.empty_like(local) for _ in range(self.plan.ranks)]
        dist.all_gather(gathered, local)
        by_rank = torch.stack(gathered).cpu().double()
        losses_RKB = by_rank[:, :-1].view(self.plan.ranks, self.plan.accumulation, self.plan.micro)
        flags = reduce(or_, map(int, by_rank[:, -1].tolist()))
        return losses_RKB.transpose(0, 1).flatten().tolist(), flags

    def _save(self, step: int) -> None:
        self.monitor.sync()
        skipped = [skipped.to_dict() for skipped in self.skips.steps]
        self.checkpoints.save(step, skipped)
        self.clock.saved()
