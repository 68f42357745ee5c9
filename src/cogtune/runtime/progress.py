"""Progress of a stage: a bar with rate and ETA on a terminal, a line every 5 s elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import TextIO

from cogtune.runtime.log import FILE_ONLY

_log = logging.getLogger(__name__)

LINE_SECONDS = 5.0
"""Minimum time between log lines."""


class Progress:
    """Counts to ``total``: calls ``draw`` with the count and the note at every step, ``say`` with a line at most every
    5 s."""

    def __init__(
        self,
        total: int,
        label: str,
        unit: str,
        say: Callable[[str], None],
        draw: Callable[[int, str], None] | None = None,
    ) -> None:
        self.total, self.label, self.unit = total, label, unit
        self.count, self.note = 0, ""
        self._say, self._draw = say, draw
        self._started = self._said_at = time.monotonic()
        self._said = -1

    def advance(self, n: int = 1, note: str = "") -> None:
        """Add ``n`` to the count. ``note``: what else to show, such as the loss."""
        self.count += n
        self.note = note
        if self._draw is not None:
            self._draw(self.count, note)
        if time.monotonic() - self._said_at >= LINE_SECONDS:
            self._write()

    def close(self) -> None:
        """Log the last count, unless already logged or zero."""
        if self.count and self._said != self.count:
            self._write()

    def line(self) -> str:
        """``[latents] 120/500 clips (24 %), 3.41 clips/s, 1:51 left``; the rate is the mean since the start."""
        seconds = max(time.monotonic() - self._started, 1e-6)
        rate = self.count / seconds
        percent = 100 * self.count // self.total if self.total else 100
        left = f", {_duration((self.total - self.count) / rate)} left" if 0 < self.count < self.total else ""
        end = f", took {_duration(seconds)}" if self.count >= self.total else ""
        return (
            f"[{self.label}] {self.count}/{self.total} {self.unit} ({percent} %), {_rate(rate, self.unit)}{left}{end}"
            f"{f', {self.note}' if self.note else ''}"
        )

    def _write(self) -> None:
        self._said_at, self._said = time.monotonic(), self.count
        self._say(self.line())


@contextmanager
def progress(total: int, label: str, unit: str = "items", plain: bool = False) -> Generator[Progress, None, None]:
    """A `Progress`: a bar with rate and ETA if stderr is a terminal and not ``plain``, logged lines otherwise.

    With a bar, the lines only go to the job's log file.
    """
    if plain or not sys.stderr.isatty():
        bar = Progress(total, label, unit, say=lambda line: _log.info("%s", line))
        try:
            yield bar
        finally:
            bar.close()
        return
    with _drawn(sys.stderr, total, label, unit) as draw:
        bar = Progress(total, label, unit, say=lambda line: _log.info("%s", line, extra=FILE_ONLY), draw=draw)
        try:
            yield bar
        finally:
            bar.close()


@contextmanager
def _drawn(terminal: TextIO, total: int, label: str, unit: str) -> Generator[Callable[[int, str], None], None, None]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(_rate(task.finished_speed or task.speed or 0.0, unit))

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
    )
    # Output during progress appears above the bar.
    with Bars(*columns, console=Console(file=terminal)) as bars:
        task = bars.add_task(label, total=total, note="")
        yield lambda count, note: bars.update(task, completed=count, note=note)


def _rate(per_second: float, unit: str) -> str:
    if per_second >= 0.1 or per_second == 0:
        return f"{per_second:.2f} {unit}/s"
    return f"{1 / per_second:.1f} s per {unit.removesuffix('s')}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
