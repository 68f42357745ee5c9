"""Keeps the weights of the step with the lowest validation loss."""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from cogtune.train.average import has_average
from cogtune.train.engine import keeps_average
from cogtune.train.snapshot import Snapshots
from cogtune.work.results import BestKept
from cogtune.work.training_log import ValidationRow, best_row

_log = logging.getLogger(__name__)


@dataclass
class BestStep:
    """The best step of a training on one rank. ``set``, ``weights``, ``draws``: the rows of validations that count.

    All ranks decide alike, because they have the same rows. Snapshots of earlier best steps stay until two checkpoints are
    newer, because a training that was killed may resume from an earlier checkpoint.
    """

    snapshots: Snapshots
    set: str
    weights: str
    draws: str
    device: torch.device
    step: int = 0
    """0: none yet."""
    loss: float = math.inf
    _at_checkpoint: list[int] = field(default_factory=lambda: [0, 0])
    """The best steps at the last two checkpoints."""

    def begin(self, start: int, rows: Iterable[Any]) -> None:
        """Remember the best step up to ``start`` from ``rows`` of the log (on the first rank). Collective.

        Snapshots of later steps are of a run that died; their steps are repeated.
        """
        if dist.get_rank() == 0:
            best = best_row(row for row in rows if isinstance(row, ValidationRow) and self._counts(row))
            self.snapshots.keep_best_steps(step for step in self.snapshots.best_steps() if step <= start)
            if best is not None and best.step in self.snapshots.best_steps():
                self.step, self.loss = best.step, best.validation_loss
            elif best is not None:
                _log.warning(
                    "args.keep_best: the weights of step %d, with the lowest validation loss so far (%.6g), were not kept; "
                    "the best of the later steps will be",
                    best.step,
                    best.validation_loss,
                )
        remembered = torch.tensor([float(self.step), self.loss], dtype=torch.float64, device=self.device)
        dist.broadcast(remembered, 0)
        step, self.loss = remembered.tolist()
        self.step = int(step)
        self._at_checkpoint = [self.step, self.step]

    def offer(self, engine: Any, row: ValidationRow) -> None:
        """Keep the weights now if this row, of the step that was just done, is the best so far. Collective."""
        if not row.step or not self._counts(row) or not row.validation_loss < self.loss:
            return
        if keeps_average(engine) and not has_average(engine):
            return  # every step so far was skipped
        self.step, self.loss = row.step, row.validation_loss
        self.snapshots.save_best(engine, row.step, row.validation_loss)

    def checkpointed(self, last: bool) -> None:
        """After a checkpoint, ``last`` for the final one: remove snapshots that no resume needs."""
        needed = {self.step} if last else {self.step, *self._at_checkpoint}
        if dist.get_rank() == 0:
            self.snapshots.keep_best_steps(needed)
        self._at_checkpoint = [self._at_checkpoint[1], self.step]

    def kept(self) -> BestKept | None:
        """For the summary; None if no step is kept."""
        if not self.step:
            return None
        return BestKept(self.step, self.loss, self.set, self.weights, self.snapshots.best_path(self.step))

    def _counts(self, row: ValidationRow) -> bool:
        return (row.set, row.weights, row.draws) == (self.set, self.weights, self.draws)
