"""What a training tells: a row of log.jsonl for each step and validation, values for trackers, a report to the stage, and
lines of the log."""

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cogtune.train.result import peak_memory
from cogtune.train.skipped import Skipped, Skips
from cogtune.train.throughput import Throughput
from cogtune.train.trackers import Trackers
from cogtune.work.training_log import AVERAGED, Row, StepRow, TrainingLog, ValidationRow, scalars

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """The outcome of one step. ``number`` from 1; ``loss``: mean over the global batch; ``norm``: of the gradient before
    clipping. ``skipped``: loss or gradient was not finite, so nothing was updated; ``overflowed``: nothing was updated
    because DeepSpeed is searching for a scale of the fp16 loss. ``stop``: whether all ranks stop after it, and
    ``why_stop``, if not for a signal; ``save``: whether they write a checkpoint."""

    number: int
    loss: float
    rate: float
    norm: float
    stop: bool = False
    why_stop: str = ""
    save: bool = False
    skipped: Skipped | None = None
    overflowed: bool = False


@dataclass
class Monitor:
    """The figures of a training. Only the first rank calls `begin`; on the others nothing is told.

    ``report(values)`` is called after each step, for the progress line. ``log_interval``: steps between rows with rates,
    lines of the log, and values for the trackers.
    """

    steps: int
    log_interval: int
    throughput: Throughput
    report: Callable[[dict[str, Any]], None] = lambda values: None
    skips: Skips = field(default_factory=lambda: Skips(0))
    _training_log: TrainingLog | None = None
    _trackers: Trackers = field(default_factory=Trackers)
    _losses: deque[float] = field(default_factory=lambda: deque(maxlen=AVERAGED))
    _seconds: list[float] = field(default_factory=list)
    """Of the steps since the last row with rates, without the first step of this start, which is a warm-up."""
    _warm: bool = False

    def begin(self, training_log: TrainingLog, trackers: Trackers) -> None:
        """Tell everything to ``training_log`` and ``trackers`` from now on. The mean loss goes on from the rows of earlier
        starts."""
        self._training_log, self._trackers = training_log, trackers
        steps = [row for row in training_log.kept if isinstance(row, StepRow)]
        self._losses.extend(row.loss for row in steps if row.loss is not None)

    def step(self, outcome: Step, seconds: float, waited: float) -> None:
        """Tell the outcome of a step, which took ``seconds``, of which it ``waited`` for data."""
        if self._training_log is None:
            return
        if outcome.skipped is not None:
            clips = self.skips.describe(outcome.skipped.clips)
            _log.warning("step %d was skipped because %s; its clips: %s", outcome.number, outcome.skipped.why, clips)
        logged = outcome.number % self.log_interval == 0 or outcome.number == self.steps
        row = self._row(outcome, seconds, waited)
        if self._warm:
            self._seconds.append(seconds)
        self._warm = True
        if logged:
            row = self._with_rates(row)
        self._training_log.add(row)
        self.report(self._progress(row))
        if outcome.stop and outcome.why_stop:
            self.report({"stopped": outcome.why_stop})
        if logged:
            self._trackers.add(scalars(row), row.step)
            _log.info("step %d/%d  %s", row.step, self.steps, _line(row))

    def _row(self, outcome: Step, seconds: float, waited: float) -> StepRow:
        skipped = outcome.skipped
        if skipped is None and math.isfinite(outcome.loss):
            self._losses.append(outcome.loss)
        return StepRow(
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

    def _with_rates(self, row: StepRow) -> StepRow:
        measured = self._seconds or [row.seconds]
        seconds = math.fsum(measured) / len(measured)
        self._seconds = []
        mfu, peak = self.throughput.mfu(seconds), peak_memory()
        return replace(
            row,
            loss_mean=self._loss_mean(),
            seconds_mean=round(seconds, 6),
            tokens_per_second=round(self.throughput.tokens_per_second(seconds), 1),
            mfu=None if mfu is None else round(mfu, 4),
            peak_memory_mib=peak.host_mib if peak.gpu_mib is None else peak.gpu_mib,
            skipped_steps=len(self.skips.steps),
            total_steps=self.steps,
        )

    def _loss_mean(self) -> float | None:
        return math.fsum(self._losses) / len(self._losses) if self._losses else None

    def _progress(self, row: StepRow) -> dict[str, Any]:
        """What the progress line shows. Without a finite mean loss it has none."""
        values = {"step": row.step, "loss": self._loss_mean(), "lr": row.lr, "skipped": len(self.skips.steps)}
        return values | {"tokens_per_second": row.tokens_per_second, "mfu": row.mfu}

    def validation(self, row: ValidationRow) -> None:
        """Tell the outcome of a validation."""
        if self._training_log is None:
            return
        if math.isfinite(row.validation_loss):
            self._training_log.add(row)
            self._trackers.add(scalars(row), row.step)
        else:
            _log.warning("step %d: the validation loss is %s; it is not logged", row.step, row.validation_loss)

    def has_validation(self, step: int) -> bool:
        """Whether the log has a validation after ``step``, from an earlier start; False on other ranks than the first."""
        return any(isinstance(row, ValidationRow) and row.step == step for row in self.kept_rows)

    @property
    def kept_rows(self) -> Sequence[Row]:
        """The rows of earlier starts; none on other ranks than the first."""
        return self._training_log.kept if self._training_log is not None else []

    def sync(self) -> None:
        """Called before each checkpoint: no earlier row may be missing."""
        if self._training_log is not None:
            self._training_log.sync()

    def close(self) -> None:
        """Called at the end of a start, unless it failed."""
        self._trackers.close()


def _line(row: StepRow) -> str:
    """The figures of a row for the log."""
    loss = "no loss" if row.loss is None else f"loss {row.loss:.5f}"
    mean = "" if row.loss_mean is None else f" (mean {row.loss_mean:.5f})"
    rates = f"{row.seconds_mean:.3f} s/step  {row.tokens_per_second:.0f} tokens/s"
    mfu = "" if row.mfu is None else f"  MFU {100 * row.mfu:.1f} %"
    skipped = f"  {row.skipped_steps} steps skipped" if row.skipped_steps else ""
    memory = f"  peak memory {row.peak_memory_mib:.0f} MiB"
    return f"{loss}{mean}  lr {row.lr:.3g}  grad norm {row.grad_norm:.4g}  {rates}{mfu}{memory}{skipped}"
