"""What a user can look at while a training runs: links in results/<experiment>/, and a page with the loss so far."""

import logging
import os
import time
from pathlib import Path

from cogtune.evaluation.report.gather import loss_curves
from cogtune.evaluation.report.training_page import RELOAD_SECONDS, State, render
from cogtune.evaluation.report.validation import overfitting, validation_curves
from cogtune.runtime.atomic import replace_link, write_text
from cogtune.runtime.paths import named_folder
from cogtune.stages.job import Job
from cogtune.train.rank_log import RANK_LOG
from cogtune.work import training_log
from cogtune.work.inputs import TrainInput
from cogtune.work.results_folder import EVENTS, LOG, PAGE, folders_of_training, link_training, training_view
from cogtune.work.training_log import StepRow

FIRST_SECONDS = 10.0
"""The first chart is drawn after this time, so that a short training does not spend a second on one."""
_SHARE = 0.02
"""Of the time that may be spent on drawing: reading the log of 100,000 steps takes seconds."""
_log = logging.getLogger(__name__)


class TrainingPage:
    """Writes `results/.logs/train-<key>.html`. Links to it, to the log, to TensorBoard's files (``event_files``) and to the
    checkpoints are in the folders of all experiments of the run that share this training. A failure to write them is
    logged once and never stops the training."""

    def __init__(self, job: Job[TrainInput], event_files: Path | None = None) -> None:
        self._event_files = event_files
        self._rows, self._key = job.job_dir() / "log.jsonl", job.key
        self._checkpoints = job.job_dir() / "checkpoints"
        self._log_path = job.log_path or job.job_dir() / RANK_LOG
        self.path = training_view(job.results, job.key, PAGE)
        self._name = job.experiment
        self.folder = named_folder(job.results, self._name, "experiment")
        self._started = time.monotonic()
        self._next = self._started + FIRST_SECONDS
        self._steps = self._step = 0
        self._failed = self._drawn = False

    def begin(self) -> None:
        """Create a page without a chart, and the links; say once where they are."""
        try:
            self._checkpoints.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write(running=True, draw=False)
            results = self.folder.parent
            if self._event_files is not None:
                self._event_files.mkdir(parents=True, exist_ok=True)
                replace_link(training_view(results, self._key, EVENTS), self._event_files)
            for folder in {self.folder, *folders_of_training(results, self._key)}:
                link_training(results, folder, self._key, self._checkpoints)
                replace_link(folder / LOG, self._log_path)
        except OSError as error:
            self._failed = True
            _log.warning("[train] no page with the loss: %s", error)
            return
        board = f"; TensorBoard: tensorboard --logdir {_short(self.folder / EVENTS)}" if self._event_files else ""
        _log.info("[train] log: %s; loss curve: %s%s", _short(self._log_path), _short(self.folder / PAGE), board)

    def advance(self, step: int, steps: int) -> None:
        """``step`` of ``steps`` are done: draw the page again if it is old enough."""
        self._step, self._steps = step, steps
        if time.monotonic() >= self._next:
            self._renew(running=True)

    def end(self) -> None:
        """The last page, which does not load itself again."""
        self._renew(running=False, draw=self._drawn or time.monotonic() - self._started >= FIRST_SECONDS)

    def _renew(self, running: bool, draw: bool = True) -> None:
        if self._failed:
            return
        before = time.monotonic()
        try:
            self._write(running, draw)
        except Exception as error:  # whatever matplotlib raises
            self._failed = True
            _log.warning("[train] the page with the loss is not renewed any more: %s", error)
        spent = time.monotonic() - before
        self._next = time.monotonic() + max(RELOAD_SECONDS, spent / _SHARE)

    def _write(self, running: bool, draw: bool) -> None:
        files = [("Log", str(self._log_path)), ("Loss of each step", str(self._rows))]
        files += [("Report, when all stages are done", str(self.folder / "report.html"))]
        rows = training_log.read(self._rows, warn=False) if draw else []
        skipped = sum(isinstance(row, StepRow) and row.skipped is not None for row in rows)
        self._drawn = self._drawn or draw
        state = State(self._name, self._step, self._steps, running, files, skipped)
        write_text(self.path, render(state, *loss_curves(rows), overfitting(validation_curves(rows))))


def _short(path: Path) -> str:
    """Relative to the current folder if it is inside."""
    return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)
