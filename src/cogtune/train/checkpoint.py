"""Checkpoints: a kill at any line leaves the previous one intact, and only files with a matching checksum are loaded.

A step waits only until its tensors are copied to host memory. A thread then writes them, each rank what it owns, and hashes
what it writes. The first rank adds the record (`checkpoints/training.py`) when all files are complete, renames the folder,
and deletes old ones.
"""

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # pyright: ignore[reportPrivateImportUsage]

from cogtune.checkpoints.training import EARLIER, FORMAT, MASTER, RECORD, Record, format_of, read_record, stored_name
from cogtune.errors import UserError
from cogtune.model.weights.write import stream_safetensors
from cogtune.runtime.atomic import sync
from cogtune.runtime.digest import file_digest
from cogtune.runtime.failures import NOTE, explain
from cogtune.runtime.paths import remove_own
from cogtune.runtime.saved import DamagedError, read_sealed, write_sealed
from cogtune.train.engine import trained_shapes
from cogtune.train.host_copy import HostCopy
from cogtune.train.optimizer_state import LocalState, collect
from cogtune.train.pieces import Piece, optimizer_with_parameters, pieces
from cogtune.train.restore import engine_counters, restore_engine

_log = logging.getLogger(__name__)

_SKIPPED = {"step", "why", "clips"}
_POLL_SECONDS = 0.1
_LEAVE_SECONDS = 600.0
"""The longest time for which a training that failed waits for its last checkpoint."""
_HASHING_THREADS = 8


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint whose checksums match its record."""

    path: Path
    step: int
    ranks: int
    skipped: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _Share:
    """What a rank wrote: the file, its checksum, and its part of the record; or why it could not."""

    file: str
    digest: str = ""
    ranges: dict[str, list[int]] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    scalars: dict[str, dict[str, Any]] = field(default_factory=dict)
    whole: list[str] = field(default_factory=list)
    whole_keys: dict[str, list[str]] = field(default_factory=dict)
    error: str = ""


class Checkpoints:
    """The checkpoints of a training in ``folder``, of which the newest ``keep`` are kept.

    The threads of the ranks tell each other through ``store`` what they wrote: a process group for them would be gloo's, which
    needs host names that resolve between machines, as NCCL does not.
    """

    def __init__(self, engine: Any, folder: Path, keep: int, store: Store) -> None:
        self.engine, self.folder, self.keep = engine, folder, keep
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()
        self._store = PrefixStore("checkpoints", store)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the last checkpoint, also if the training ended with an error, which is then the one that is told."""
        if kind is None:
            self.wait()
        elif self._thread is not None:
            self._thread.join(_LEAVE_SECONDS)

    def save(self, step: int, skipped: Sequence[dict[str, Any]] = ()) -> None:
        """Copy what this rank owns after ``step`` finished steps, and write it in a thread. Waits for the checkpoint
        before it, and raises its error. ``skipped``: the steps skipped so far (`skipped.Skipped`). Collective."""
        self.wait()
        started = time.perf_counter()
        module = self.engine.module
        held = own = pieces(self.engine, module)
        if not self.engine.zero_optimization():  # all ranks have everything: each writes a part
            own = [part for piece in held if (part := piece.cut(self._rank, self._ranks))]
        with optimizer_with_parameters(self.engine) as optimizer:
            local = collect(optimizer, held, own)
        if not self.engine.zero_optimization() and self._rank > 0:
            local.whole.clear()
        layout, copy = self._copied(own, local)
        record = Record(
            format=FORMAT, step=step, ranks=self._ranks, files={}, ranges={}, states=[], scalars={}, whole={}, whole_keys={},
            shapes={name: list(shape) for name, shape in trained_shapes(module).items()},
            groups=local.groups, counters=engine_counters(self.engine), skipped=list(skipped),
        )  # fmt: skip
        ranges = {piece.name: [piece.begin, piece.end] for piece in own}
        share = _Share(
            f"rank-{self._rank:05d}.safetensors", "", ranges, list(local.tensors), local.scalars, list(local.whole),
            local.whole_keys,
        )  # fmt: skip
        _log.info("checkpoint of step %d: copied in %.3f s", step, time.perf_counter() - started)
        self._thread = threading.Thread(
            target=self._write, args=(record, share, layout, copy, started), name="checkpoint", daemon=True
        )
        self._thread.start()

    def check(self) -> None:
        """Raise the error of a checkpoint that could not be written, once its thread has ended."""
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Wait until the last checkpoint is complete. Raises the error if it could not be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def load_newest(self, warn: Callable[[str], object] = _log.warning) -> SavedCheckpoint | None:
        """Load the newest undamaged checkpoint, of any number of ranks and any ZeRO stage, and return it; None if there is
        none. Raises UserError for one of an earlier version. Collective."""
        choice: list[SavedCheckpoint | None] = [newest(self.folder, warn) if self._rank == 0 else None]
        dist.broadcast_object_list(choice, src=0)
        saved = choice[0]
        if saved is not None:
            restore_engine(self.engine, saved.path, read_record(saved.path))
        return saved

    def _copied(self, own: list[Piece], local: LocalState) -> tuple[dict[str, Any], HostCopy]:
        tensors = {stored_name(MASTER, piece.name): piece.of(piece.holder) for piece in own}
        for state, by_name in local.tensors.items():
            tensors |= {stored_name(state, name): tensor for name, tensor in by_name.items()}
        tensors |= local.whole
        # Larger elements first: then each tensor begins at a multiple of its element's size.
        ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))
        copy = HostCopy()
        for tensor in ordered.values():
            copy.add(tensor)
        copy.finish()
        return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in ordered.items()}, copy

    def _write(self, record: Record, share: _Share, layout: dict[str, Any], copy: HostCopy, started: float) -> None:
        """In the thread: this rank's file; on the first rank also the record, when all files are there."""
        partial = self.folder / f".writing-{record.step:08d}"
        try:
            try:
                share = replace(share, digest=_write_file(partial / share.file, layout, copy))
            except Exception as error:
                self._error = error
                share = _Share(share.file, error=str(explain(error) or error))
            self._store.set(f"{record.step}-{self._rank}", json.dumps(asdict(share)))
            if self._rank == 0:
                shares = [_Share(**json.loads(self._told(f"{record.step}-{rank}"))) for rank in range(self._ranks)]
                failed = next((share.error for share in shares if share.error), "")
                if not failed:
                    try:
                        self._complete(_merged(record, shares), partial)
                        _log.info(
                            "checkpoint of step %d: on disk after %.1f s", record.step, time.perf_counter() - started
                        )
                    except Exception as error:
                        self._error = error
                        failed = str(explain(error) or error)
                self._store.set(f"{record.step}-outcome", json.dumps(failed))
            failed = json.loads(self._told(f"{record.step}-outcome"))
            if failed and self._error is None:
                self._error = UserError(failed)
        except Exception as error:
            self._error = self._error or error

    def _told(self, key: str) -> bytes:
        """A value that another rank sets. Not the store's own waiting, which would keep it from the other threads."""
        while not self._store.check([key]):
            time.sleep(_POLL_SECONDS)
        return self._store.get(key)

    def _complete(self, record: Record, partial: Path) -> None:
        write_sealed(partial / RECORD, asdict(record))
        sync(partial)
        target = self.folder / f"step-{record.step:08d}"
        remove_own(target)  # exists only if it was damaged
        os.rename(partial, target)
        sync(self.folder)
        remove_old(self.folder, record.step, self.keep)


def _write_file(path: Path, layout: dict[str, tuple[Any, tuple[int, ...]]], copy: HostCopy) -> str:
    """Write the bytes of ``copy``; their sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    try:
        stream_safetensors(path, layout, copy.drain(), {}, digest.update)
        sync(path)
    except OSError as error:
        error.add_note(f"{NOTE}{path}")
        raise
    return digest.hexdigest()


def _merged(record: Record, shares: Sequence[_Share]) -> Record:
    """The record with what all ranks wrote."""
    return replace(
        record,
        files={share.file: share.digest for share in shares},
        ranges={share.file: share.ranges for share in shares},
        states=sorted({state for share in shares for state in share.states}),
        scalars={name: values for share in shares for name, values in share.scalars.items()},
        whole={name: share.file for share in shares for name in share.whole},
        whole_keys={name: keys for share in shares for name, keys in share.whole_keys.items()},
    )


def remove_old(folder: Path, step: int, keep: int) -> None:
    """After the checkpoint of ``step`` was written: keep the newest ``keep`` up to it. Later ones are damaged, or this training
    would have resumed from them; if they counted, they would displace whole ones."""
    checkpoints = _by_step(folder)
    earlier = [other for other in checkpoints if other <= step]
    for other in checkpoints.keys() - set(earlier[-max(1, keep) :]):
        remove_own(checkpoints[other])


def _by_step(folder: Path) -> dict[int, Path]:
    """The checkpoints in ``folder`` in ascending order. Folders with other names, such as a user's copies, are none."""
    names = {path.name.removeprefix("step-"): path for path in folder.glob("step-*")}
    return {int(name): names[name] for name in sorted(names) if name.isdecimal()}


def newest(folder: Path, warn: Callable[[str], object] = _log.warning) -> SavedCheckpoint | None:
    """The newest undamaged checkpoint in ``folder``. ``warn`` gets a message for each damaged one that is skipped. Raises
    UserError if it is one of an earlier version."""
    damaged = list[str]()
    for path in reversed(_by_step(folder).values()):
        try:
            saved = verify(path)
        except (ValueError, DamagedError) as error:
            damaged.append(f"{path}: this checkpoint is damaged ({str(error).split(';')[0]})")
            continue
        if format_of(path) in EARLIER:
            raise UserError(
                f"{path}: written by an earlier version of cogtune, in a format that this version cannot read. Finish this "
                f"training with that version, or delete {folder} to train from the beginning: its {saved.step} steps are "
                f"then lost"
            )
        _report_damaged(damaged, f"step {saved.step}", warn)
        return saved
    _report_damaged(damaged, "the beginning", warn)
    return None


def newest_step(folder: Path) -> int | None:
    """The step of the newest checkpoint by its name, which it gets when it is complete; None if there is none."""
    return max(_by_step(folder), default=None)


def _report_damaged(damaged: list[str], start: str, warn: Callable[[str], object]) -> None:
    for message in damaged:
        warn(f"{message} and is ignored; training resumes from {start}")


def verify(path: Path) -> SavedCheckpoint:
    """The checkpoint at ``path``, of this or an earlier version. Raises ValueError or DamagedError unless its files are
    exactly those of its record."""
    keys = {"format": str, "step": int, "ranks": int, "files": dict}
    record = read_sealed(path / RECORD, keys, "the checkpoint is not used")
    if record["format"] not in (FORMAT, *EARLIER):
        raise ValueError(f"format {record['format']!r}, this version reads {FORMAT!r}")
    if record["format"] == FORMAT:
        read_record(path)
    if path.name != f"step-{record['step']:08d}":
        raise ValueError(f"its record is of step {record['step']}")
    names = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()} - {RECORD}
    if differing := names ^ set(record["files"]):
        raise ValueError(f"missing or additional files: {sorted(differing)[:3]}")
    with ThreadPoolExecutor(_HASHING_THREADS) as threads:
        digests = threads.map(file_digest, (path / name for name in record["files"]))
        for (name, expected), digest in zip(record["files"].items(), digests, strict=True):
            if digest != expected:
                raise ValueError(f"{name}: checksum differs from the record")
    skipped = record.get("skipped", [])
    if not isinstance(skipped, list) or not all(
        isinstance(skipped_step, dict) and skipped_step.keys() >= _SKIPPED for skipped_step in skipped
    ):
        raise ValueError("its list of skipped steps is invalid")
    return SavedCheckpoint(path, record["step"], record["ranks"], skipped)


def clear_unfinished(folder: Path) -> None:
    """Remove the partial checkpoints of killed writers. Call it only while no writer is alive."""
    for path in folder.glob(".writing-*"):
        remove_own(path)
