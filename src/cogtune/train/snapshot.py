"""Snapshots: the weights of a step, kept for samples and exports. A training cannot resume from one.

    <training>/snapshots/step-00000500/        one every `args.snapshot_interval` steps; all are kept
    <training>/snapshots/best-00000350/        the step with the lowest validation loss (`args.keep_best`)

A snapshot has the files of final/ (`result.write_weights`): for a LoRA the weights and their average, for a full network
one of the two, the average if there is one.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist

from cogtune.runtime.atomic import sync
from cogtune.runtime.paths import remove_own
from cogtune.train.engine import keeps_average
from cogtune.train.result import AVERAGE, MODEL, write_weights

FOLDER = "snapshots"
STEP, BEST = "step-", "best-"
_PARTIAL = ".writing-"


@dataclass(frozen=True)
class Snapshots:
    """Writes the snapshots of a training into ``folder``. ``facts``: metadata of each file, beside the step. ``adapters``:
    whether only a LoRA is trained."""

    folder: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    adapters: bool = False

    def save(self, engine: Any, step: int) -> Path:
        """Write the snapshot of ``step``, in place of one that an earlier start wrote. Collective."""
        return self._write(engine, f"{STEP}{step:08d}", {"steps": step})

    def save_best(self, engine: Any, step: int, validation_loss: float) -> Path:
        """Write the snapshot of the best step so far. Collective. Those of earlier best steps stay: see
        `keep_best_steps`."""
        return self._write(engine, f"{BEST}{step:08d}", {"steps": step, "validation_loss": validation_loss})

    @staticmethod
    def best_path(step: int) -> str:
        """The folder of a best step's snapshot, relative to the training's folder."""
        return f"{FOLDER}/{BEST}{step:08d}"

    def best_steps(self) -> list[int]:
        """The steps of the snapshots that `save_best` wrote, in ascending order."""
        names = (path.name.removeprefix(BEST) for path in self.folder.glob(f"{BEST}*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def keep_best_steps(self, steps: Iterable[int]) -> None:
        """Remove the snapshots that `save_best` wrote of other steps. For the first rank."""
        for step in set(self.best_steps()) - set(steps):
            remove_own(self.folder / f"{BEST}{step:08d}")

    def _write(self, engine: Any, name: str, facts: dict[str, Any]) -> Path:
        target, partial, first = self.folder / name, self.folder / f"{_PARTIAL}{name}", _is_first()
        if first:
            remove_own(partial)
            partial.mkdir(parents=True)
        full = AVERAGE if keeps_average(engine) else MODEL
        names = (MODEL, AVERAGE) if self.adapters else (full,)
        write_weights(engine, engine.module, partial, dict(self.facts) | facts, first, names)
        if first:
            remove_own(target)
            os.rename(partial, target)
            sync(self.folder)
        dist.barrier()
        return target


def clear_unfinished(folder: Path) -> None:
    """Remove the partial snapshots of killed writers. Call it only while no writer is alive."""
    for path in folder.glob(f"{_PARTIAL}*"):
        remove_own(path)


def _is_first() -> bool:
    return dist.get_rank() == 0
