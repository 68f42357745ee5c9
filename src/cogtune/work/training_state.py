"""How far a training is, by its log and its lock only: of this machine, or of another one that uses the store."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogtune.errors import UserError
from cogtune.runtime.locks import Sign, last_sign
from cogtune.runtime.owners import Timing
from cogtune.runtime.paths import is_key
from cogtune.runtime.typed_json import is_mapping
from cogtune.work import training_log
from cogtune.work.records import read_object
from cogtune.work.results import SUMMARY
from cogtune.work.results_folder import PAGE
from cogtune.work.training_log import StepRow, ValidationRow

_RATED_STEPS = 200
"""Steps whose mean time gives the rate."""


@dataclass(frozen=True)
class TrainingState:
    """``name``: of its experiment, if known here; ``sign``: of its lock, None if it never started; ``finished``: its result
    exists; ``total``: all of its steps, None if not known yet; ``steps``, ``validations``: the rows of its log."""

    key: str
    name: str
    folder: Path
    sign: Sign | None
    finished: bool
    total: int | None
    steps: Sequence[StepRow]
    validations: Sequence[ValidationRow]

    @property
    def running(self) -> bool:
        """Whether it seems to run: its process is not known to have ended."""
        return not self.finished and self.sign is not None and not self.sign.released and not self.sign.gone

    @property
    def seconds_per_step(self) -> float | None:
        """Mean of the last steps, without the first one, validation and checkpoints."""
        seconds = [row.seconds for row in self.steps[1:][-_RATED_STEPS:]]
        return sum(seconds) / len(seconds) if seconds else None

    @property
    def status(self) -> str:
        """In words: running and where, finished, stopped, or no sign of life."""
        sign = self.sign
        if self.finished:
            return "finished"
        if sign is None:
            return "not started: the stages before it run first, or it waits"
        if sign.released:
            return "stopped; the same command resumes it"
        if sign.gone:
            return f"stopped without a word: {sign.name} is gone; the same command resumes it"
        if sign.silence > Timing().stale:
            return f"no sign of life for {_duration(sign.silence)} from {sign.name}; if it is dead, the same command resumes it"
        return f"running: {sign.name}"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"


def read_state(store: Path, results: Path, key: str) -> TrainingState:
    """The state of the training ``key``."""
    folder = store / "train" / key
    rows = training_log.read(folder / "log.jsonl", warn=False)
    steps = [row for row in rows if isinstance(row, StepRow)]
    return TrainingState(
        key=key,
        name=next((name for name, other in experiments(results).items() if other == key), ""),
        folder=folder,
        sign=last_sign(store / "locks" / f"train-{key}.lock"),
        finished=(folder / "final" / SUMMARY).exists(),
        total=next((row.total_steps for row in reversed(steps) if row.total_steps), None) or _planned(store, key),
        steps=steps,
        validations=[row for row in rows if isinstance(row, ValidationRow)],
    )


def _planned(store: Path, key: str) -> int | None:
    """`args.train_iters` of its slice."""
    node: Any = read_object(store / "slices" / f"{key}.json")
    for name in ("values", "args", "train_iters"):
        node = node.get(name) if is_mapping(node) else None
    return node if isinstance(node, int) else None


def experiments(results: Path) -> dict[str, str]:
    """Experiment -> key of its training, by the links in the results folder."""
    keys: dict[str, str] = {}
    for page in sorted(results.glob(f"*/{PAGE}")):
        key = page.resolve().stem.removeprefix("train-")
        if page.is_symlink() and is_key(key):
            keys[page.parent.name] = key
    return keys


def training_key(store: Path, results: Path, run: str | None) -> str:
    """The key of the training ``run``, an experiment or a key; without one, of a running training, else of the one whose log
    was written last. Raises UserError if there is none."""
    known = experiments(results)
    if run is not None:
        key = known.get(run, run)
        if is_key(key) and (run in known or (store / "train" / key).is_dir()):
            return key
        choice = f"; expected one of {', '.join(known)}, or the key of a folder in {store}/train" if known else ""
        raise UserError(f"watch {run}: no training of this experiment is known in {results}{choice}")
    logs = {
        path.parent.name: path.stat().st_mtime for path in store.glob("train/*/log.jsonl") if is_key(path.parent.name)
    }
    if not logs and not known:
        raise UserError(f"{store}: no training was started yet")
    running = [key for key in logs if _is_running(store, key)]
    candidates = running or list(logs) or list(known.values())
    return max(candidates, key=lambda key: logs.get(key, 0.0))


def _is_running(store: Path, key: str) -> bool:
    sign = last_sign(store / "locks" / f"train-{key}.lock")
    return sign is not None and not sign.released and not sign.gone and sign.silence <= Timing().stale
