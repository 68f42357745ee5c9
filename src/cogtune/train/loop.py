"""The training loop."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cogtune.diffusion.loss import VideoDiffusionLoss
from cogtune.diffusion.noise import generator
from cogtune.errors import UserError
from cogtune.train import checkpoint
from cogtune.train.engine import take_step
from cogtune.train.feed import Draws, Feed, Prefetch, StepFeed
from cogtune.train.schedule import Schedule
from cogtune.train.skipped import Skipped, Skips
from cogtune.work.batches import BatchPlan
from cogtune.work.training_log import StepRow, TrainingLog, ValidationRow

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Intervals:
    """When, in steps, and how much. 0 means never."""

    save: int
    keep: int
    log: int
    evaluate: int = 0
    evaluate_batch: int = 1
    evaluate_draws: int = 0


@dataclass(frozen=True)
class Step:
    """What one step came to. ``number`` from 1; ``loss``: mean over the global batch; ``norm``: of the gradient before
    clipping; ``skipped``: it moved nothing; ``overflowed``: nor did this one, while fp16 looks for its scale."""

    number: int
    loss: float
    rate: float
    norm: float
    stop: bool
    skipped: Skipped | None = None
    overflowed: bool = False


@dataclass
class Loop:
    """One rank's view of training. ``training_log`` exists on the first rank only.

    ``on_step(step, loss)`` is called on the first rank after each step, with None for a loss that is no number;
    ``stopping()`` says whether this rank was asked to stop. What a step draws depends on (seed, step, position in the
    global batch) alone. ``skips``: the steps that moved nothing, and how many there may be.
    """

    engine: Any
    loss: VideoDiffusionLoss
    feed: Feed
    validation: Feed | None
    plan: BatchPlan
    schedule: Schedule
    steps: int
    intervals: Intervals
    folder: Path
    rank: int
    device: torch.device
    training_log: TrainingLog | None = None
    on_step: Callable[[int, float | None], None] = lambda step, loss: None
    stopping: Callable[[], bool] = lambda: False
    skips: Skips = field(default_factory=lambda: Skips(0))

    def run(self, start: int) -> bool:
        """Train from step ``start`` to the end; False if it was asked to stop (a checkpoint is written then).

        Raises UserError, after a checkpoint, when more steps were skipped than may be.
        """
        if too_many := self.skips.too_many(self.steps if start == self.steps else None):
            raise UserError(too_many)
        step_feed = StepFeed(self.feed, self.plan, self.rank)
        self.engine.train()
        with Prefetch(step_feed.step, range(start, self.steps)) as batches:
            source = iter(batches)
            for step in range(start, self.steps):
                began = time.perf_counter()
                micro_batches = next(source)
                waited = time.perf_counter() - began
                one = self._step(step, micro_batches, step_feed)
                self._record(one, time.perf_counter() - began, waited)
                self._evaluate(step + 1)
                done = step + 1 == self.steps
                too_many = self.skips.too_many(self.steps if done else None)
                due = self.intervals.save and (step + 1) % self.intervals.save == 0
                if one.stop or done or too_many or due:
                    self._save(step + 1)
                if too_many:
                    raise UserError(too_many)
                if one.stop and not done:
                    return False
        return True

    def _step(self, step: int, micro_batches: list[Draws], source: StepFeed) -> Step:
        """Forward and backward over this rank's micro batches, then one optimizer step; it moves nothing where the loss
        or the gradient is no finite number, on all ranks alike."""
        rate = self.schedule(step)
        losses = []
        for draws, positions in zip(micro_batches, self._positions(), strict=True):
            # Dropout, if a LoRA has it, is the one draw that torch's own generator makes.
            torch.manual_seed(generator(self.feed.seed, "dropout", step, positions[0]).initial_seed())
            loss_B = self._loss(draws)
            self.engine.backward(loss_B.mean())
            losses.append(loss_B.detach())
            if len(losses) < self.plan.accumulation:
                self.engine.step()  # counts the micro batch; the weights move at the last one only
        ordered, stop = self._agree(torch.stack(losses))
        bad = [position for position, loss in enumerate(ordered) if not math.isfinite(loss)]
        loss = ordered[bad[0]] if bad else math.fsum(ordered) / len(ordered)
        taken = take_step(self.engine, rate, hold=bool(bad))
        skipped = None
        if not taken.moved and not taken.overflowed:
            why = f"the loss is {loss}" if bad else f"the gradient norm is {taken.norm}"
            skipped = Skipped(step + 1, why, source.clips(step, bad or range(self.plan.global_batch)))
            self.skips.steps.append(skipped)
        return Step(step + 1, loss, rate, taken.norm, stop, skipped, taken.overflowed)

    def _loss(self, draws: Draws) -> Tensor:
        draws = draws.to(self.device)
        offset_B = draws.offset_B if self.loss.params.offset_noise_level else None
        return self.loss(
            self.engine,
            draws.x0_BTCHW,
            draws.context_BLD,
            draws.index_B,
            draws.noise_BTCHW,
            concat=draws.concat_BTCHW,
            offset_B=offset_B,
        )

    def _positions(self) -> list[range]:
        return [self.plan.positions(self.rank, k) for k in range(self.plan.accumulation)]

    def _agree(self, losses_KB: Tensor) -> tuple[list[float], bool]:
        """The losses of the global batch in the order of positions, so that their sum does not depend on the ranks; and
        whether any rank was asked to stop, so that all stop at the same step."""
        flag = torch.full((1,), float(self.stopping()), device=self.device)
        mine = torch.cat([losses_KB.float().flatten(), flag])
        every = [torch.empty_like(mine) for _ in range(self.plan.ranks)]
        dist.all_gather(every, mine)
        whole = torch.stack(every).cpu().double()
        losses_RKB = whole[:, :-1].view(self.plan.ranks, self.plan.accumulation, self.plan.micro)
        return losses_RKB.transpose(0, 1).flatten().tolist(), bool(whole[:, -1].any())

    def _record(self, one: Step, seconds: float, waited: float) -> None:
        if self.training_log is None:
            return
        skipped = one.skipped
        if skipped is not None:
            named = self.skips.called(skipped.clips)
            _log.warning("step %d is skipped, since %s; its clips: %s", one.number, skipped.why, named)
        row = StepRow(
            step=one.number,
            skipped=skipped.why if skipped else None,
            clips=skipped.clips if skipped else None,
            loss=None if skipped else one.loss,
            overflow=True if one.overflowed else None,
            lr=one.rate,
            grad_norm=one.norm,
            seconds=round(seconds, 6),
            data_wait=round(waited, 6),
        )
        self.training_log.add(row)
        self.on_step(one.number, one.loss if math.isfinite(one.loss) else None)
        if self.intervals.log and one.number % self.intervals.log == 0:
            figures = f"loss {one.loss:.5f}  lr {one.rate:.3g}  grad norm {one.norm:.4g}  {seconds:.3f} s"
            _log.info("step %d/%d  %s", one.number, self.steps, figures)

    def _evaluate(self, step: int) -> None:
        if self.validation is None or not self.intervals.evaluate or step % self.intervals.evaluate:
            return
        loss = self.validation_loss(self.validation)
        if self.training_log is not None and math.isfinite(loss):
            self.training_log.add(ValidationRow(step, loss))
        elif self.training_log is not None:
            _log.warning("step %d: the validation loss is %s, and is left out of the log", step, loss)

    @torch.no_grad()
    def validation_loss(self, feed: Feed) -> float:
        """Mean loss over fixed draws: the same noise each time, timesteps one per stratum, no caption dropout."""
        total, size = self.intervals.evaluate_draws, self.intervals.evaluate_batch
        chunks = [range(first, min(first + size, total)) for first in range(0, total, size)]
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.engine.eval()
        # Under ZeRO-3 a forward pass is collective, so every rank makes the same number; surplus ones do not count.
        for turn in range(-(-len(chunks) // self.plan.ranks)):
            own = turn * self.plan.ranks + self.rank
            chunk = chunks[min(own, len(chunks) - 1)]
            loss_B = self._loss(feed.validation_batch([j % len(feed.data) for j in chunk], chunk, total))
            if own < len(chunks):
                sums += torch.stack([loss_B.double().sum(), torch.tensor(float(len(chunk)), device=self.device)])
        self.engine.train()
        dist.all_reduce(sums)
        return float(sums[0] / sums[1])

    def _save(self, step: int) -> None:
        if self.training_log is not None:
            self.training_log.sync()
        skipped = [one.to_dict() for one in self.skips.steps]
        checkpoint.save(self.engine, self.folder, step, self.intervals.keep, skipped)
