"""log.jsonl: one row per step, and rows of validation; what a resumed run keeps of it."""

import json
import logging
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from cogtune.runtime.atomic import write_text

_log = logging.getLogger(__name__)

AVERAGED = 20
"""Steps over which the first and the last loss of a summary are averaged."""
_KINDS = {"loss", "skipped", "overflow", "validation_loss"}
_TIMES = {"seconds", "data_wait"}
_NUMBERS = {"loss", "validation_loss", "lr", "grad_norm"} | _TIMES


class History:
    """Writer of log.jsonl. Only the first rank has one.

    Step rows: step (from 1), loss (mean over the global batch), lr, grad_norm (before clipping), seconds, data_wait
    (seconds that the step waited for data). A step that moved nothing has no loss, but ``skipped`` (why) and ``clips``;
    one at which DeepSpeed changed the scale of the fp16 loss has ``overflow``. Validation rows: step, validation_loss.
    Rows after ``last_step`` are from a run that died before its next checkpoint; they are cut off, since their steps are
    done again.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        self.path = path
        kept = [row for row in read(path) if row["step"] <= last_step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._stream: TextIO = path.open("a")

    def add(self, **row: Any) -> None:
        """Append one row; it survives the death of this process, though not of the machine before `sync`. A figure that is
        no finite number, which JSON does not have, is left out."""
        finite = {name: value for name, value in row.items() if not isinstance(value, float) or math.isfinite(value)}
        self._stream.write(json.dumps(finite, allow_nan=False) + "\n")
        self._stream.flush()

    def sync(self) -> None:
        """Put all rows on the disk; done before each checkpoint, so that no row before it can be missing."""
        os.fsync(self._stream.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a log. A last line that a kill cut short is left out; so are damaged ones, which are told (stderr): no
    weight depends on them, and only training the same steps again would bring them back."""
    if not path.exists():
        return []
    rows, damaged = list[dict[str, Any]](), list[int]()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        row = _row(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):
            damaged.append(number)
    if damaged:
        first = f"line {damaged[0]}" + (f" and {len(damaged) - 1} more" if len(damaged) > 1 else "")
        told = "damaged and left out: the loss curve has a gap, and the weights are as they were"
        _log.warning("%s: %s: %s", path, first, told)
    return rows


def _row(line: str) -> dict[str, Any] | None:
    """What a line says; None for one that no training wrote."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or not row.keys() & _KINDS:
        return None
    timed = "validation_loss" in row or row.keys() >= _TIMES
    return row if timed and all(type(row[name]) in (int, float) for name in _NUMBERS & row.keys()) else None


def figures(rows: Iterable[dict[str, Any]]) -> dict[str, float | int]:
    """Summary figures of a finished log: loss_first, loss_last, steps_per_second, data_wait_fraction (and the last
    validation loss, and the numbers of skipped and overflowed steps, if any). The first step of the log is not timed: it warms up."""
    rows = list(rows)
    steps = [row for row in rows if "loss" in row]
    losses = [row["loss"] for row in steps]
    timed = steps[1:] or steps
    seconds = sum(row["seconds"] for row in timed)
    found: dict[str, float | int] = {
        "loss_first": math.fsum(losses[:AVERAGED]) / len(losses[:AVERAGED]),
        "loss_last": math.fsum(losses[-AVERAGED:]) / len(losses[-AVERAGED:]),
        "steps_per_second": len(timed) / seconds,
        "data_wait_fraction": sum(row["data_wait"] for row in timed) / seconds,
    }
    for name, key in (("skipped_steps", "skipped"), ("overflowed_steps", "overflow")):
        if count := sum(key in row for row in rows):
            found[name] = count
    validation = [row["validation_loss"] for row in rows if "validation_loss" in row]
    return found | ({"validation_loss_last": validation[-1]} if validation else {})
