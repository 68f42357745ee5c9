"""Checkpoints: written so that a kill at any line leaves the previous one whole, and read only if every byte is ours.

    <folder>/step-00000500/state/…         DeepSpeed's files: weights, fp32 masters, optimizer state with the average
    <folder>/step-00000500/record.json     step, number of ranks, sha256 of every file; written last, before the rename

DeepSpeed unpickles its files without restriction, so nothing reaches it whose checksum the record does not have.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from cogtune.errors import UserError

FORMAT = "cogtune-checkpoint-1"
TAG = "state"


@dataclass(frozen=True)
class Found:
    """A checkpoint whose files are as they were written."""

    path: Path
    step: int
    ranks: int


def save(engine: Any, folder: Path, step: int, keep: int) -> Path:
    """Write a checkpoint after ``step`` finished steps and drop all but the newest ``keep``. Collective."""
    target, partial = folder / f"step-{step:08d}", folder / f".writing-{step:08d}"
    if _is_first():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    engine.save_checkpoint(str(partial), tag=TAG, save_latest=False, exclude_frozen_parameters=True)
    dist.barrier()
    if _is_first():
        for script in partial.glob("*.py"):  # DeepSpeed's converters; they read its pickles without our checks
            script.unlink()
        files = {str(path.relative_to(partial)): _fsync_and_hash(path) for path in sorted(partial.rglob("*")) if path.is_file()}
        record = {"format": FORMAT, "step": step, "ranks": dist.get_world_size(), "files": files}
        (partial / "record.json").write_text(json.dumps(record, indent=1))
        _fsync_and_hash(partial / "record.json")
        for inner in (partial / TAG, partial):
            _fsync_folder(inner)
        shutil.rmtree(target, ignore_errors=True)  # there only if it was damaged
        os.rename(partial, target)
        _fsync_folder(folder)
        _drop_old(folder, keep)
    dist.barrier()
    return target


def load_newest(engine: Any, folder: Path, stage: int) -> int:
    """Load the newest whole checkpoint into ``engine``; returns its step, 0 if there is none. Collective.

    ``stage`` is the ZeRO stage: from 1 on, a checkpoint is cut for one number of ranks, and UserError says so.
    """
    choice: list[Found | None] = [newest(folder) if _is_first() else None]
    dist.broadcast_object_list(choice, src=0)
    found = choice[0]
    if found is None:
        return 0
    if stage > 0 and found.ranks != dist.get_world_size():
        raise UserError(
            f"{found.path}: written by {found.ranks} ranks, and this run has {dist.get_world_size()}; ZeRO cannot cut it "
            f"anew. Go on with {found.ranks} ranks, or remove {folder} to start over"
        )
    # Not strict: frozen parameters are not in it, they come from the start of the run.
    engine.load_checkpoint(str(found.path), tag=TAG, load_module_strict=False)
    return found.step


def newest(folder: Path) -> Found | None:
    """The newest checkpoint in ``folder`` with all its bytes; damaged ones are named on standard output and passed over."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            return _verify(path)
        except (OSError, ValueError, KeyError) as error:
            print(f"checkpoint {path} is damaged and is passed over: {error}", flush=True)
    return None


def _verify(path: Path) -> Found:
    record = json.loads((path / "record.json").read_text())
    if record["format"] != FORMAT:
        raise ValueError(f"format {record['format']!r}, this version reads {FORMAT!r}")
    present = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()} - {"record.json"}
    if present != set(record["files"]):
        raise ValueError(f"its files are not those of its record: {sorted(present ^ set(record['files']))[:3]}")
    for name, expected in record["files"].items():
        if _hash(path / name) != expected:
            raise ValueError(f"{name}: checksum differs from the record")
    return Found(path, record["step"], record["ranks"])


def _drop_old(folder: Path, keep: int) -> None:
    for path in sorted(folder.glob("step-*"))[: -max(1, keep)]:
        shutil.rmtree(path)


def clear_unfinished(folder: Path) -> None:
    """Remove what a killed writer left. Only while no writer is alive."""
    for path in folder.glob(".writing-*"):
        shutil.rmtree(path)


def _is_first() -> bool:
    return dist.get_rank() == 0


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fsync_and_hash(path: Path) -> str:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
