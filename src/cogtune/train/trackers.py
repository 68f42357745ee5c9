"""Programs that show the curves of a training: TensorBoard, Weights & Biases, CSV files.

They replace DeepSpeed's monitor, which gets only the learning rate, cannot remove the points that a resumed training
makes again, and starts a new run of Weights & Biases at each start. The keys are DeepSpeed's and upstream's.
"""

import csv
import logging
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from cogtune.errors import UserError
from cogtune.runtime.atomic import write_text

_log = logging.getLogger(__name__)
NO_TENSORBOARD = "no files for TensorBoard, which is not installed: pip install tensorboard"


@dataclass(frozen=True)
class WandbRun:
    """``project``, ``team`` and ``group`` of Weights & Biases; ``name`` of the run."""

    project: str
    name: str
    team: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Tracking:
    """Where the curves go. ``folder``: for files of the training. ``tensorboard``, ``csv``: folders, None for none."""

    folder: str
    tensorboard: str | None = None
    csv: str | None = None
    wandb: WandbRun | None = None


class Tracker(Protocol):
    """Gets scalars by name, such as train/loss, after a step."""

    def add(self, scalars: Mapping[str, float], step: int) -> None: ...
    def close(self) -> None: ...


def has_tensorboard() -> bool:
    """Whether event files can be written."""
    return find_spec("tensorboard") is not None


def open_trackers(tracking: Tracking, start: int, config: Mapping[str, Any]) -> "Trackers":
    """The trackers of a training that goes on after step ``start``, or begins (0): then no earlier point stays. ``config``:
    shown by Weights & Biases. Raises UserError if Weights & Biases is wanted and cannot start."""
    trackers: list[Tracker] = []
    last = start or -1  # step 0 has points too: a validation precedes the first step
    for kind, place in ((EventFiles, tracking.tensorboard if has_tensorboard() else None), (CsvFiles, tracking.csv)):
        if place is None:
            continue
        try:
            trackers.append(kind(Path(place), last))
        except Exception as error:  # a folder that cannot be written, a TensorBoard that does not fit another library
            _log.warning("%s: no curves are written there: %s", place, error)
    if tracking.wandb is not None:
        trackers.append(WeightsAndBiases(tracking.wandb, Path(tracking.folder), config))
    return Trackers(trackers)


class Trackers:
    """All trackers of a training. One that fails is left out from then on, with a warning: it never stops the training."""

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = list(trackers)

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Pass on the scalars of a step. They must be finite."""
        for tracker in list(self._trackers):
            try:
                tracker.add(scalars, step)
            except Exception as error:  # a full disk, a lost network, whatever a library raises
                self._trackers.remove(tracker)
                _log.warning("step %d: %s gets no more values: %s", step, type(tracker).__name__, error)

    def close(self) -> None:
        """Called once, at the end of a start."""
        for tracker in self._trackers:
            try:
                tracker.close()
            except Exception as error:
                _log.warning("%s was not closed: %s", type(tracker).__name__, error)


class EventFiles:
    """Event files of TensorBoard in ``folder``. Readers drop the points of earlier files after step ``last``."""

    def __init__(self, folder: Path, last: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._writer = SummaryWriter(str(folder), purge_step=last + 1)

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Written to the disk at once: the process may be killed."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class CsvFiles:
    """One file per scalar in ``folder``, train_loss.csv with the columns step and loss, as DeepSpeed writes them. Rows after
    step ``last`` are removed."""

    def __init__(self, folder: Path, last: int) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for path in [*folder.glob("train_*.csv"), *folder.glob("validation_*.csv")]:
            head, *rows = path.read_text().splitlines(keepends=True) or [""]
            kept = [row for row in rows if _step_of(row) <= last]
            if len(kept) < len(rows):
                write_text(path, "".join([head, *kept]))

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Append a row to each file."""
        for name, value in scalars.items():
            path = self._folder / f"{name.replace('/', '_')}.csv"
            new = not path.exists()
            with path.open("a", newline="") as stream:
                rows = csv.writer(stream)
                if new:
                    rows.writerow(["step", name.rpartition("/")[2]])
                rows.writerow([step, value])

    def close(self) -> None: ...


def _step_of(row: str) -> float:
    """The step of a row; infinite for a truncated one, which is removed."""
    with suppress(ValueError):
        if row.endswith("\n"):
            return int(row.partition(",")[0])
    return float("inf")


class WeightsAndBiases:
    """A run of Weights & Biases. Its id is kept in the training's folder, so that a resumed training goes on in it. Points
    have the step as their x axis, so the ones that are made again replace the earlier ones."""

    def __init__(self, run: WandbRun, folder: Path, config: Mapping[str, Any]) -> None:
        try:
            wandb: Any = import_module("wandb")
        except ImportError as error:
            raise UserError(
                f"args.wandb: Weights & Biases cannot be imported ({error}); `pip install wandb`, or set it to false"
            ) from error
        own = folder / "wandb"
        own.mkdir(parents=True, exist_ok=True)
        if not (name := own / "run-id").exists():
            write_text(name, uuid.uuid4().hex[:12])
        try:
            self._run = wandb.init(
                project=run.project, entity=run.team, group=run.group, name=run.name, id=name.read_text().strip(),
                resume="allow", dir=str(folder), config=dict(config), settings=wandb.Settings(console="off"),
            )  # fmt: skip
        except Exception as error:
            raise UserError(
                f"args.wandb: Weights & Biases did not start: {error}. Run `wandb login`, or set WANDB_MODE=offline and "
                "`wandb sync` the run later, or set args.wandb: false"
            ) from error
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Log the scalars of a step."""
        self._run.log({"step": step, **scalars})

    def close(self) -> None:
        """Wait until all is sent."""
        self._run.finish()
