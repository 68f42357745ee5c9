"""What a training tells: a row of log.jsonl for each step and validation, a report to the stage, and lines of the log."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from cogtune.train.skipped import Skipped, Skips
from cogtune.work.training_log import StepRow, TrainingLog, ValidationRow

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """The outcome of one step. ``number`` from 1; ``loss``: mean over the global batch; ``norm``: of the gradient before
    clipping. ``skipped``: loss or gradient was not finite, so nothing was updated; ``overflowed``: nothing was updated
    because DeepSpeed is searching for a scale of the fp16 loss."""

    number: int
    loss: float
    rate: float
    norm: float
    stop: bool
    skipped: Skipped | None = None
    overflowed: bool = False


@dataclass
class Monitor:
    """The figures of a training. ``training_log`` exists on the first rank only; on the others nothing is told.

    ``on_step(step, loss, lr)`` is called after each step, with None for a loss that is not finite. ``log_interval``: steps
    between lines of the log, 0 for never.
    """

    steps: int
    log_interval: int
    training_log: TrainingLog | None = None
    on_step: Callable[[int, float | None, float], None] = lambda step, loss, lr: None
    skips: Skips = field(default_factory=lambda: Skips(0))

    def step(self, outcome: Step, seconds: float, waited: float) -> None:
        """Tell the outcome of a step, which took ``seconds``, of which it ``waited`` for data."""
        if self.training_log is None:
            return
        skipped = outcome.skipped
        if skipped is not None:
            clips = self.skips.describe(skipped.clips)
            _log.warning("step %d was skipped because %s; its clips: %s", outcome.number, skipped.why, clips)
        row = StepRow(
            step=outcome.number,
            skipped=skipped.why if skipped else None,
            clips=skipped.clips if skipped else None,
            loss=None if skipped else outcome.loss,
            overflow=True if outcome.overflowed else None,
            lr=outcome.rate,
            grad_norm=outcome.norm,
            seconds=round(seconds, 6),
            data_wait=round(waited, 6),
        )
        self.training_log.add(row)
        self.on_step(outcome.number, outcome.loss if math.isfinite(outcome.loss) else None, outcome.rate)
        if self.log_interval and outcome.number % self.log_interval == 0:
            figures = f"loss {outcome.loss:.5f}  lr {outcome.rate:.3g}  grad norm {outcome.norm:.4g}  {seconds:.3f} s"
            _log.info("step %d/%d  %s", outcome.number, self.steps, figures)

    def validation(self, row: ValidationRow) -> None:
        """Tell the outcome of a validation."""
        if self.training_log is None:
            return
        if math.isfinite(row.validation_loss):
            self.training_log.add(row)
        else:
            _log.warning("step %d: the validation loss is %s; it is not logged", row.step, row.validation_loss)

    def sync(self) -> None:
        """Called before each checkpoint: no earlier row may be missing."""
        if self.training_log is not None:
            self.training_log.sync()
