"""log.jsonl: rows of steps and validations, and how a resumed run continues it."""

import logging
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from cogtune.runtime.atomic import write_text
from cogtune.runtime.jsonl import checked_line, read_lines
from cogtune.runtime.typed_json import from_json, is_list, is_mapping, to_json

_log = logging.getLogger(__name__)

AVERAGED = 20
"""Number of steps averaged for the first and the last loss of a summary."""


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """One step, from 1. ``loss``: mean over the global batch; ``lr``; ``grad_norm``: before clipping; ``seconds``;
    ``data_wait``: seconds of waiting for data. A skipped step has no loss, but ``skipped`` (the reason) and ``clips``; a
    step in which DeepSpeed lowered the fp16 loss scale has ``overflow``.

    Every `args.log_interval` steps a row also has ``loss_mean``, the mean loss of the last `AVERAGED` steps;
    ``seconds_mean``, ``tokens_per_second`` and ``mfu`` (model FLOPs utilisation, 0 to 1; only on known GPUs) over the steps
    since the last such row; ``peak_memory_mib`` of the first rank, on its GPU if it has one; and ``skipped_steps`` so far;
    and ``total_steps`` of the training.
    """

    step: int
    skipped: str | None = None
    clips: list[str] | None = None
    loss: float | None = None
    overflow: bool | None = None
    lr: float | None = None
    grad_norm: float | None = None
    seconds: float
    data_wait: float
    loss_mean: float | None = None
    seconds_mean: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    peak_memory_mib: float | None = None
    skipped_steps: int | None = None
    total_steps: int | None = None


RAW_WEIGHTS, AVERAGE_WEIGHTS = "raw", "ema"
BANDS = 4
"""Quarters of the noise schedule, by ascending timestep: from almost no noise to almost only noise."""


@dataclass(frozen=True)
class ValidationRow:
    """The mean loss on fixed draws of clips after a step; at step 0, before the first one.

    ``set``: name of the validation set; ``trained_on``: the clips are training clips instead. ``weights``: RAW_WEIGHTS, or
    AVERAGE_WEIGHTS for their moving average. ``bands``: mean loss in each of `BANDS` quarters of the schedule, None for one
    without a draw. ``draws``: identifies clips and timesteps; losses of other draws are not comparable. Rows of earlier
    versions have step and loss only, of raw weights.
    """

    step: int
    validation_loss: float
    set: str | None = None
    weights: str | None = None
    trained_on: bool | None = None
    bands: list[float | None] | None = None
    draws: str | None = None


Row = StepRow | ValidationRow


class TrainingLog:
    """Writer of log.jsonl, one row per line with checksum. Only the first rank has one.

    Rows after ``last_step`` are from a run that died before its next checkpoint; they are removed, because their steps
    are repeated. Without a checkpoint (0) all rows are removed.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        self.path = path
        self.kept = [row for row in read(path) if row.step <= last_step] if last_step else []
        """The rows of earlier starts."""
        write_text(path, "".join(map(_line, self.kept)))
        self._stream: TextIO = path.open("a")

    def add(self, row: Row) -> None:
        """Append one row; it survives the end of this process, and after `sync` a power cut. Values that are not finite,
        which JSON does not support, are omitted."""
        self._stream.write(_line(row))
        self._stream.flush()

    def sync(self) -> None:
        """fsync all rows; called before each checkpoint, so that no earlier row can be missing."""
        os.fsync(self._stream.fileno())


def read(path: Path, warn: bool = True) -> list[Row]:
    """The rows of a log; empty if there is no log. A truncated last line is ignored. Damaged lines are ignored with a
    warning: no weight depends on them, and only repeating the training could restore them."""
    if not path.exists():
        return []
    lines = read_lines(path, _parsed)
    if lines.damaged and warn:
        more = len(lines.damaged) - 1
        first = f"line {lines.damaged[0]}" + (f" and {more} more" if more else "")
        effect = "damaged and ignored; the loss curve has a gap, the weights are not affected"
        _log.warning("%s: %s: %s", path, first, effect)
    return lines.rows


def damaged_lines(path: Path, finished: bool) -> list[int]:
    """The numbers of damaged lines. In an unfinished training, a truncated last line is not damage."""
    if not path.exists():
        return []
    lines, content = read_lines(path, _parsed), path.read_bytes()
    cut_short = not content.endswith(b"\n")
    if (lines.torn and not cut_short) or (cut_short and finished):
        return [*lines.damaged, content.count(b"\n") + cut_short]
    return lines.damaged


def drop_damaged_lines(path: Path) -> None:
    """Keep only the valid rows. Call only while no training writes the log."""
    write_text(path, "".join(map(_line, read(path, warn=False))))


def _line(row: Row) -> str:
    return checked_line(_finite(to_json(row)))


def _finite(value: Any) -> Any:
    """``value`` without numbers that are not finite, which JSON does not have: entries of mappings are omitted, items of
    lists become null."""
    if is_mapping(value):
        return {name: _finite(part) for name, part in value.items() if not _is_wild(part)}
    if is_list(value):
        return [None if _is_wild(part) else _finite(part) for part in value]
    return value


def _is_wild(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def scalars(row: Row) -> dict[str, float]:
    """The finite numbers of a row by name: train/loss, train/lr …; of a validation validation/SET/raw/loss,
    validation/SET/raw/quarter_1 …, where training clips are the set training_clips."""
    if isinstance(row, ValidationRow):
        clips = "training_clips" if row.trained_on else row.set
        prefix = f"validation/{clips}/{row.weights}" if clips else "validation"
        named: dict[str, Any] = {"loss": row.validation_loss}
        named |= {f"quarter_{i}": loss for i, loss in enumerate(row.bands or [], start=1)}
    else:
        prefix, named = "train", to_json(row)
        named = {name: value for name, value in named.items() if name not in ("step", "total_steps")}
    numbers = ((name, value) for name, value in named.items() if isinstance(value, int | float))
    return {
        f"{prefix}/{name}": float(value)
        for name, value in numbers
        if not isinstance(value, bool) and math.isfinite(value)
    }


def _parsed(value: Any) -> Row:
    """Raises ValueError for invalid rows. An unknown key counts as damage (perhaps of the checksum's key)."""
    kind = ValidationRow if is_mapping(value) and "validation_loss" in value else StepRow
    row: Row = from_json(kind, value)
    if unknown := set[str](value) - {field.name for field in fields(kind)}:
        raise ValueError(f"unknown key {min(unknown)!r}")
    if isinstance(row, ValidationRow):
        return row
    if row.loss is None and row.skipped is None and not row.overflow:
        raise ValueError("missing key 'loss'")
    return row


@dataclass(frozen=True)
class Curve:
    """``set``: None for training clips, and in logs of earlier versions; ``rows``: at least one, by step."""

    set: str | None
    weights: str
    trained_on: bool
    rows: Sequence[ValidationRow]

    @property
    def comparable(self) -> list[ValidationRow]:
        """The rows with the draws of the last one; others are of other clips or timesteps."""
        return [row for row in self.rows if row.draws == self.rows[-1].draws]


def curves(rows: Iterable[Row]) -> list[Curve]:
    """The curves among the rows of a log, in the order of the first row of each."""
    grouped: dict[tuple[str | None, str, bool], list[ValidationRow]] = {}
    for row in rows:
        if isinstance(row, ValidationRow):
            grouped.setdefault((row.set, row.weights or RAW_WEIGHTS, bool(row.trained_on)), []).append(row)
    return [Curve(*key, of_key) for key, of_key in grouped.items()]


def main_curve(every: Sequence[Curve]) -> Curve | None:
    """The curve that decides which step is the best: of the first validation set in the last validation, of the average
    weights if there are any."""
    held_out = [curve for curve in every if not curve.trained_on]
    if not held_out:
        return None
    last = max(curve.rows[-1].step for curve in held_out)
    current = [curve for curve in held_out if curve.rows[-1].step == last]
    first = current[0].set
    return min((curve for curve in current if curve.set == first), key=lambda curve: curve.weights != AVERAGE_WEIGHTS)


def best_row(rows: Iterable[ValidationRow]) -> ValidationRow | None:
    """The row with the lowest loss after a step of the training, the first of equal ones. Step 0 does not count: those
    weights are not of this training."""
    return min((row for row in rows if row.step), key=lambda row: row.validation_loss, default=None)


@dataclass(frozen=True)
class LogFigures:
    """The figures of a finished log, as `results.TrainSummary` has them."""

    loss_first: float
    loss_last: float
    steps_per_second: float
    data_wait_fraction: float
    skipped_steps: int | None
    overflowed_steps: int | None
    validation_loss_last: float | None


def figures(rows: Sequence[Row]) -> LogFigures:
    """Losses are means over `AVERAGED` steps; the validation loss is that of `main_curve`. The first step of the log is not
    timed, as it is a warm-up."""
    steps = [row for row in rows if isinstance(row, StepRow)]
    trained = [row for row in steps if row.loss is not None]
    losses = [row.loss for row in trained if row.loss is not None]
    timed = trained[1:] or trained
    seconds = sum(row.seconds for row in timed)
    validation = main_curve(curves(rows))
    return LogFigures(
        loss_first=math.fsum(losses[:AVERAGED]) / len(losses[:AVERAGED]),
        loss_last=math.fsum(losses[-AVERAGED:]) / len(losses[-AVERAGED:]),
        steps_per_second=len(timed) / seconds,
        data_wait_fraction=sum(row.data_wait for row in timed) / seconds,
        skipped_steps=sum(row.skipped is not None for row in steps) or None,
        overflowed_steps=sum(bool(row.overflow) for row in steps) or None,
        validation_loss_last=validation.rows[-1].validation_loss if validation else None,
    )
