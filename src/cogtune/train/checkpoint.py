"""Checkpoints: a kill at any line leaves the previous one intact, and only files with a matching checksum are loaded.

    <folder>/step-00000500/state/…         DeepSpeed's files: weights, fp32 masters, optimizer state with the average
    <folder>/step-00000500/record.json     step, number of ranks, skipped steps, sha256 of every file; written last, before
                                           the rename

DeepSpeed unpickles its files without restriction, so all checksums are compared with the record first.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist

from cogtune.errors import UserError
from cogtune.runtime.atomic import sync
from cogtune.runtime.digest import file_digest
from cogtune.runtime.paths import remove_own
from cogtune.runtime.saved import DamagedError, read_sealed, write_sealed

_log = logging.getLogger(__name__)

FORMAT = "cogtune-checkpoint-2"
UNSEALED = "cogtune-checkpoint-1"
"""Format of earlier versions, whose record has no checksum of itself."""
_KEYS = {"format": str, "step": int, "ranks": int, "files": dict}
_SKIPPED = {"step", "why", "clips"}
TAG = "state"


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint whose checksums match its record."""

    path: Path
    step: int
    ranks: int
    skipped: list[dict[str, Any]] = field(default_factory=list)


def save(engine: Any, folder: Path, step: int, keep: int, skipped: Sequence[dict[str, Any]] = ()) -> Path:
    """Write a checkpoint after ``step`` finished steps and delete all but the newest ``keep``. Collective. ``skipped``:
    the steps skipped so far (`skipped.Skipped`)."""
    target, partial = folder / f"step-{step:08d}", folder / f".writing-{step:08d}"
    if _is_first():
        remove_own(partial)
        partial.mkdir(parents=True)
    dist.barrier()
    engine.save_checkpoint(str(partial), tag=TAG, save_latest=False, exclude_frozen_parameters=True)
    dist.barrier()
    if _is_first():
        for script in partial.glob("*.py"):  # DeepSpeed's converters; they read its pickles without checking them
            script.unlink()
        files = {name: _sync_and_hash(partial / name) for name in _files(partial)}
        record = {"format": FORMAT, "step": step, "ranks": dist.get_world_size(), "files": files}
        record |= {"skipped": list(skipped)}
        write_sealed(partial / "record.json", record)
        for inner in (partial / TAG, partial):
            sync(inner)
        remove_own(target)  # exists only if it was damaged
        os.rename(partial, target)
        sync(folder)
        _drop_old(folder, keep)
    dist.barrier()
    return target


def load_newest(engine: Any, folder: Path, warn: Callable[[str], object] = _log.warning) -> SavedCheckpoint | None:
    """Load the newest undamaged checkpoint into ``engine`` and return it; None if there is none. Collective.

    Raises UserError if it was written by another number of ranks: ZeRO partitions a checkpoint for a fixed number.
    """
    choice: list[SavedCheckpoint | None] = [newest(folder, warn) if _is_first() else None]
    dist.broadcast_object_list(choice, src=0)
    saved = choice[0]
    if saved is None:
        return None
    if engine.zero_optimization() and saved.ranks != dist.get_world_size():
        raise UserError(
            f"{saved.path}: written by {saved.ranks} ranks, but this run has {dist.get_world_size()}; a ZeRO checkpoint "
            f"cannot be loaded by another number of ranks. Resume with {saved.ranks} ranks (ranks in config/config.yaml, "
            f"or --ranks {saved.ranks}), or delete {folder} to start over"
        )
    # Not strict: frozen parameters are not in the checkpoint; the initial model sets them.
    engine.load_checkpoint(str(saved.path), tag=TAG, load_module_strict=False)
    return saved


def newest(folder: Path, warn: Callable[[str], object] = _log.warning) -> SavedCheckpoint | None:
    """The newest undamaged checkpoint in ``folder``. ``warn`` gets a message for each damaged one that is skipped."""
    damaged = list[str]()
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            saved = verify(path)
        except (ValueError, DamagedError) as error:
            damaged.append(f"{path}: this checkpoint is damaged ({str(error).split(';')[0]})")
            continue
        _report_damaged(damaged, f"step {saved.step}", warn)
        return saved
    _report_damaged(damaged, "the beginning", warn)
    return None


def newest_step(folder: Path) -> int | None:
    """The step of the newest checkpoint by its name, which it gets when it is complete; None if there is none."""
    return max((int(path.name.removeprefix("step-")) for path in folder.glob("step-*")), default=None)


def _report_damaged(damaged: list[str], start: str, warn: Callable[[str], object]) -> None:
    for message in damaged:
        warn(f"{message} and is ignored; training resumes from {start}")


def verify(path: Path) -> SavedCheckpoint:
    """The checkpoint at ``path``. Raises ValueError or DamagedError unless its files are exactly those of its record."""
    record = read_sealed(path / "record.json", _KEYS, "the checkpoint is not used")
    if record["format"] not in (FORMAT, UNSEALED):
        raise ValueError(f"format {record['format']!r}, this version reads {FORMAT!r}")
    if path.name != f"step-{record['step']:08d}":
        raise ValueError(f"its record is of step {record['step']}")
    if differing := (set(_files(path)) - {"record.json"}) ^ set(record["files"]):
        raise ValueError(f"missing or additional files: {sorted(differing)[:3]}")
    for name, expected in record["files"].items():
        if file_digest(path / name) != expected:
            raise ValueError(f"{name}: checksum differs from the record")
    skipped = record.get("skipped", [])
    if not isinstance(skipped, list) or not all(
        isinstance(skipped_step, dict) and skipped_step.keys() >= _SKIPPED for skipped_step in skipped
    ):
        raise ValueError("its list of skipped steps is invalid")
    return SavedCheckpoint(path, record["step"], record["ranks"], skipped)


def _drop_old(folder: Path, keep: int) -> None:
    for path in sorted(folder.glob("step-*"))[: -max(1, keep)]:
        remove_own(path)


def clear_unfinished(folder: Path) -> None:
    """Remove the partial checkpoints of killed writers. Call it only while no writer is alive."""
    for path in folder.glob(".writing-*"):
        remove_own(path)


def _is_first() -> bool:
    return dist.get_rank() == 0


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _sync_and_hash(path: Path) -> str:
    sync(path)
    return file_digest(path)
